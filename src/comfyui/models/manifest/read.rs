//! Reading a manifest, and telling what is wrong in it by line and key.

use super::{Link, Manifest, ManifestError, Model, NoIndex, Wanted};
use crate::comfyui::models::{hash, place, source::Source};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::path::Path;

/// The most entries of one list.
const ENTRIES: usize = 10_000;

/// A text that is read.
pub(super) struct Reader<'a> {
    /// For messages.
    pub(super) file: &'a Path,
    /// All of it.
    pub(super) text: &'a str,
}

type Raw<'a> = &'a RawValue;

impl<'a> Reader<'a> {
    pub(super) fn manifest(&self) -> Result<Manifest, ManifestError> {
        let top: BTreeMap<String, Raw<'a>> =
            serde_json::from_str(self.text.trim_start_matches('\u{feff}'))
                .map_err(|error| self.syntax(error.line(), "", &error))?;
        let mut manifest = Manifest::default();
        for (key, raw) in &top {
            match key.as_str() {
                "models" => {
                    for (at, raw) in self.list(key, raw)?.into_iter().enumerate() {
                        let wanted = self.wanted(&format!("models[{at}]"), raw)?;
                        if manifest
                            .models
                            .iter()
                            .any(|known| known.file == wanted.file)
                        {
                            let what = format!("{} is wanted twice", wanted.file);
                            return Err(self.wrong(
                                raw,
                                &format!("models[{at}].name"),
                                what,
                                "give one of them another name",
                            ));
                        }
                        manifest.models.push(wanted);
                    }
                }
                "symlinks" => {
                    for (at, raw) in self.list(key, raw)?.into_iter().enumerate() {
                        manifest
                            .links
                            .push(self.link(&format!("symlinks[{at}]"), raw)?);
                    }
                }
                "no_index" => {
                    for (at, raw) in self.list(key, raw)?.into_iter().enumerate() {
                        let entry: NoIndex = self.entry(&format!("no_index[{at}]"), raw)?;
                        let path = entry
                            .path
                            .rsplit_once("/models/")
                            .map_or(entry.path.as_str(), |(_, path)| path);
                        manifest.not_indexed.push(path.to_owned());
                    }
                }
                "$schema" => {}
                comment if comment.starts_with("//") => {}
                other => {
                    let mend = match other {
                        // A script of the old machine writes this name, which no reader ever knew.
                        "model_symlinks" => "name it `symlinks`",
                        _ => {
                            "the keys are `models`, `symlinks` and `no_index`; a comment's key begins with `//`"
                        }
                    };
                    return Err(self.wrong(raw, other, "is no key of a manifest".to_owned(), mend));
                }
            }
        }
        Ok(manifest)
    }

    fn list(&self, key: &str, raw: Raw<'a>) -> Result<Vec<Raw<'a>>, ManifestError> {
        let list: Vec<Raw<'a>> = serde_json::from_str(raw.get()).map_err(|_| {
            self.wrong(
                raw,
                key,
                "is not a list".to_owned(),
                "put its entries between [ and ]",
            )
        })?;
        match list.len() > ENTRIES {
            true => Err(self.wrong(
                raw,
                key,
                format!("has more than {ENTRIES} entries"),
                "split the manifest",
            )),
            false => Ok(list),
        }
    }

    fn entry<T: Deserialize<'a>>(&self, key: &str, raw: Raw<'a>) -> Result<T, ManifestError> {
        let mut reader = serde_json::Deserializer::from_str(raw.get());
        serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = match error.path().to_string() {
                path if path == "." => key.to_owned(),
                path => format!("{key}.{path}"),
            };
            let line = self.line_of(raw) + error.inner().line().max(1) - 1;
            self.syntax(line, &path, error.inner())
        })
    }

    fn wanted(&self, key: &str, raw: Raw<'a>) -> Result<Wanted, ManifestError> {
        let model: Model = self.entry(key, raw)?;
        let wrong =
            |part: &str, what: String, mend: &str| self.wrong_in(raw, key, part, what, mend);
        let source = Source::of(&model).map_err(|(part, what, mend)| wrong(part, what, mend))?;
        let name = match &model.name {
            Some(name) => name.clone(),
            None => source.file_name().ok_or_else(|| {
                wrong(
                    "name",
                    "is missing, and the source does not tell it".to_owned(),
                    "give the file's name",
                )
            })?,
        };
        if let Some(what) = place::fault(&model.folder) {
            return Err(wrong(
                "folder",
                what.to_owned(),
                "give a folder below `models`, as `checkpoints`",
            ));
        }
        let file = format!("{}/{name}", model.folder);
        if let Some(what) = place::fault(&name).or_else(|| place::fault(&file)) {
            return Err(wrong("name", what.to_owned(), "give a plain file name"));
        }
        let sha256 = model.sha256.map(|sum| sum.to_ascii_lowercase());
        if sha256.as_deref().is_some_and(|sum| !hash::is_sum(sum)) {
            return Err(wrong(
                "sha256",
                "is not a SHA-256 sum".to_owned(),
                "give 64 hexadecimal digits, as sha256sum prints them",
            ));
        }
        let folder = file.split('/').next().unwrap_or_default().to_owned();
        Ok(Wanted {
            file,
            folder,
            source,
            sha256,
            size: model.size,
        })
    }

    fn link(&self, key: &str, raw: Raw<'a>) -> Result<Link, ManifestError> {
        let link: Link = self.entry(key, raw)?;
        for (part, path, mend) in [
            ("source", &link.source, "give a path below `sd_models`"),
            ("target", &link.target, "give a path below `models`"),
        ] {
            if let Some(what) = place::fault(path) {
                return Err(self.wrong_in(raw, key, part, what.to_owned(), mend));
            }
        }
        Ok(link)
    }

    fn syntax(&self, line: usize, key: &str, error: &serde_json::Error) -> ManifestError {
        // serde_json's place is that of the entry; ours is that of the file.
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or(&text).to_owned();
        ManifestError {
            file: self.file.to_owned(),
            line,
            key: key.to_owned(),
            what,
            mend: "see ecosystem/models.schema.json for the format".to_owned(),
        }
    }

    fn wrong(&self, raw: Raw<'a>, key: &str, what: String, mend: &str) -> ManifestError {
        ManifestError {
            file: self.file.to_owned(),
            line: self.line_of(raw),
            key: key.to_owned(),
            what,
            mend: mend.to_owned(),
        }
    }

    /// About one key of an entry: its own line, if the entry has it.
    fn wrong_in(
        &self,
        raw: Raw<'a>,
        key: &str,
        part: &str,
        what: String,
        mend: &str,
    ) -> ManifestError {
        let mut wrong = self.wrong(raw, &format!("{key}.{part}"), what, mend);
        let name = part.rsplit('.').next().unwrap_or(part);
        if let Some(at) = raw.get().find(&format!("\"{name}\"")) {
            wrong.line += raw.get()[..at].matches('\n').count();
        }
        wrong
    }

    /// Where an entry begins. It is a part of the text.
    fn line_of(&self, raw: Raw<'a>) -> usize {
        let offset = (raw.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        self.text
            .get(..offset)
            .map_or(1, |before| before.matches('\n').count() + 1)
    }
}
