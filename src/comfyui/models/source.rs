//! Where a model comes from: addresses, tokens and whom they belong to, and what may be shown of an address.

use super::manifest::Model;
use std::fmt;
use url::{Host, Url};

/// Variables with Hugging Face's token, the strongest first.
const HUGGING_FACE_TOKENS: [&str; 3] = ["HF_TOKEN", "HF_API_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
/// Variables with Civitai's token, the strongest first.
const CIVITAI_TOKENS: [&str; 2] = ["CIVITAI_TOKEN", "CIVITAI_API_TOKEN"];

/// What is wrong with a source: the key, what, and how to mend it.
type Wrong = (&'static str, String, &'static str);

/// A source.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// An address.
    Url(Url),
    /// A file of a repository on Hugging Face.
    HuggingFace {
        /// `owner/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// The file's path.
        file: String,
    },
    /// A version on Civitai.
    Civitai {
        /// Its id.
        version: u64,
    },
}

impl Source {
    /// A manifest's.
    pub(super) fn of(model: &Model) -> Result<Self, Wrong> {
        match (&model.url, &model.huggingface, &model.civitai) {
            (Some(url), None, None) => {
                let mend = "give an address that begins with https://";
                let url = Url::parse(url)
                    .map_err(|error| ("url", format!("is no address: {error}"), mend))?;
                if !matches!(url.scheme(), "http" | "https") {
                    return Err(("url", format!("has the scheme `{}`", url.scheme()), mend));
                }
                if !url.username().is_empty() || url.password().is_some() {
                    return Err((
                        "url",
                        "has a user or password in it".to_owned(),
                        "leave them out: a manifest is no place for secrets",
                    ));
                }
                Ok(Self::Url(url))
            }
            (None, Some(face), None) => {
                let plain = |text: &str| {
                    !text.is_empty()
                        && !text.starts_with('.')
                        && text
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
                };
                if face.repo.split('/').count() != 2 || !face.repo.split('/').all(plain) {
                    return Err((
                        "huggingface.repo",
                        "is no repository".to_owned(),
                        "write it as owner/name",
                    ));
                }
                if super::place::fault(&face.file).is_some() {
                    return Err((
                        "huggingface.file",
                        "is no path in a repository".to_owned(),
                        "give the file's path as Hugging Face shows it",
                    ));
                }
                if face.revision.is_empty()
                    || face.revision.chars().any(|c| c.is_control() || c == ' ')
                {
                    return Err((
                        "huggingface.revision",
                        "is no revision".to_owned(),
                        "give a branch, a tag or a commit",
                    ));
                }
                Ok(Self::HuggingFace {
                    repo: face.repo.clone(),
                    revision: face.revision.clone(),
                    file: face.file.clone(),
                })
            }
            (None, None, Some(civitai)) => Ok(Self::Civitai {
                version: civitai.version,
            }),
            (None, None, None) => Err((
                "url",
                "is missing".to_owned(),
                "give one of `url`, `huggingface` and `civitai`",
            )),
            _ => Err((
                "url",
                "stands beside another source".to_owned(),
                "give one of `url`, `huggingface` and `civitai`",
            )),
        }
    }

    /// The file's name, if the source tells it.
    pub(super) fn file_name(&self) -> Option<String> {
        let last = match self {
            Self::Url(url) => {
                let last = url.path_segments()?.next_back()?;
                percent_decoded(last)?
            }
            Self::HuggingFace { file, .. } => file.rsplit('/').next()?.to_owned(),
            Self::Civitai { .. } => return None,
        };
        (!last.is_empty()).then_some(last)
    }

    /// What tells sources apart, in notes on disk and to people. It has no query, where secrets may stand, but a sum of it.
    pub fn key(&self) -> String {
        match self {
            Self::Url(url) => match url.query() {
                Some(query) => format!("{}?{:.16}", shown(url), super::hash::of_text(query)),
                None => shown(url),
            },
            Self::HuggingFace {
                repo,
                revision,
                file,
            } => format!("huggingface:{repo}@{revision}/{file}"),
            Self::Civitai { version } => format!("civitai:{version}"),
        }
    }
}

/// What can be shown of it.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(&shown(url)),
            other => f.write_str(&other.key()),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address without what may be secret: query, fragment, user and password.
pub(super) fn shown(url: &Url) -> String {
    let mut plain = url.clone();
    plain.set_query(None);
    plain.set_fragment(None);
    // Neither fails for an address with a host.
    let _ = plain.set_username("");
    let _ = plain.set_password(None);
    plain.to_string()
}

fn percent_decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// A token and whom it belongs to.
#[derive(Clone)]
struct Token {
    home: url::Origin,
    value: Option<String>,
    /// The variable that holds it, or that would.
    variable: &'static str,
}

/// The hosts that Fornax has conventions for, and the tokens for them.
#[derive(Clone)]
pub struct Hosts {
    face: Url,
    civitai: Url,
    tokens: [Token; 2],
}

/// The environment names no usable host.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is no http address; correct it, or unset it")]
pub struct HostsError {
    /// The variable.
    pub variable: &'static str,
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The tokens stay out.
        f.debug_struct("Hosts")
            .field("face", &self.face.as_str())
            .field("civitai", &self.civitai.as_str())
            .finish_non_exhaustive()
    }
}

impl Hosts {
    /// From the environment: `HF_ENDPOINT` and `CIVITAI_ENDPOINT` name mirrors, and the tokens are in `HF_TOKEN`, `HF_API_TOKEN` or
    /// `HUGGING_FACE_HUB_TOKEN`, and in `CIVITAI_TOKEN` or `CIVITAI_API_TOKEN`. An empty variable counts as unset.
    ///
    /// # Errors
    /// An endpoint that is no http address.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, HostsError> {
        let set = |name: &str| {
            env(name)
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let endpoint = |variable: &'static str, usual: &str| {
            let url = Url::parse(&set(variable).unwrap_or_else(|| usual.to_owned()));
            url.ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
                .ok_or(HostsError { variable })
        };
        let token = |home: &Url, names: &[&'static str]| {
            let found = names.iter().find_map(|name| Some((*name, set(name)?)));
            Token {
                home: home.origin(),
                variable: found.as_ref().map_or(names[0], |(name, _)| name),
                // What cannot stand in a header would end the request with a message that shows it.
                value: found
                    .map(|(_, value)| value)
                    .filter(|value| value.bytes().all(|b| b.is_ascii_graphic())),
            }
        };
        let face = endpoint("HF_ENDPOINT", "https://huggingface.co")?;
        let civitai = endpoint("CIVITAI_ENDPOINT", "https://civitai.com")?;
        let tokens = [
            token(&face, &HUGGING_FACE_TOKENS),
            token(&civitai, &CIVITAI_TOKENS),
        ];
        Ok(Self {
            face,
            civitai,
            tokens,
        })
    }

    /// The address of a source's file.
    pub(super) fn address(&self, source: &Source) -> Url {
        let below = |base: &Url, parts: &mut dyn Iterator<Item = &str>| {
            let mut url = base.clone();
            // It fails only for an address that cannot be a base, and an http address can.
            if let Ok(mut path) = url.path_segments_mut() {
                path.pop_if_empty().extend(parts);
            }
            url
        };
        match source {
            Source::Url(url) => url.clone(),
            Source::HuggingFace {
                repo,
                revision,
                file,
            } => {
                // A branch may have a slash in its name: one part of the path, as Hugging Face's own client has it.
                let mut parts = repo
                    .split('/')
                    .chain(["resolve", revision])
                    .chain(file.split('/'));
                below(&self.face, &mut parts)
            }
            Source::Civitai { version } => {
                let version = version.to_string();
                below(
                    &self.civitai,
                    &mut ["api", "download", "models", &version].into_iter(),
                )
            }
        }
    }

    /// Where Civitai tells the sums of a version's files.
    pub(super) fn civitai_facts(&self, version: u64) -> Url {
        self.address(&Source::Civitai { version })
            .join(&format!("../../v1/model-versions/{version}"))
            .unwrap_or_else(|_| self.civitai.clone())
    }

    /// The token for this address: only for the host, port and scheme that it belongs to, and over plain http only on this
    /// machine.
    pub(super) fn token(&self, url: &Url) -> Option<&str> {
        let safe = url.scheme() == "https"
            || match url.host() {
                Some(Host::Ipv4(ip)) => ip.is_loopback(),
                Some(Host::Ipv6(ip)) => ip.is_loopback(),
                Some(Host::Domain(name)) => name == "localhost",
                None => false,
            };
        let token = self
            .tokens
            .iter()
            .find(|token| token.home == url.origin())?;
        token.value.as_deref().filter(|_| safe)
    }

    /// Whether what this host says of sums is Hugging Face's word.
    pub(super) fn is_face(&self, url: &Url) -> bool {
        url.origin() == self.face.origin()
    }

    /// What to do about a refusal by the source's own host.
    pub(super) fn mend_refusal(&self, first: &Url) -> String {
        match self.tokens.iter().find(|token| token.home == first.origin()) {
            Some(Token { value: None, variable, .. }) => {
                format!("set {variable} to a token of yours, and accept the model's terms on its page if it has any")
            }
            Some(Token { variable, .. }) if self.token(first).is_none() => {
                format!("the token of {variable} is not sent over plain http to another machine; use an https address")
            }
            Some(Token { variable, .. }) => {
                format!("the token of {variable} does not give access; accept the model's terms on its page, or use another token")
            }
            None => "the server wants a login, which Fornax has for Hugging Face and Civitai only; take another source".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[(&str, &str)]) -> Hosts {
        let list: Vec<(String, String)> = list
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Hosts::from_env(&|name| {
            list.iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
        })
        .unwrap()
    }

    #[test]
    fn addresses_follow_the_conventions() {
        let hosts = hosts(&[]);
        let face = Source::HuggingFace {
            repo: "o/r".into(),
            revision: "refs/pr/1".into(),
            file: "a b/c.bin".into(),
        };
        assert_eq!(
            hosts.address(&face).as_str(),
            "https://huggingface.co/o/r/resolve/refs%2Fpr%2F1/a%20b/c.bin"
        );
        assert_eq!(
            hosts.address(&Source::Civitai { version: 7 }).as_str(),
            "https://civitai.com/api/download/models/7"
        );
        assert_eq!(
            hosts.civitai_facts(7).as_str(),
            "https://civitai.com/api/v1/model-versions/7"
        );
    }

    #[test]
    fn a_token_goes_to_its_own_host_only_and_not_in_the_clear() {
        let hosts = hosts(&[
            ("HF_API_TOKEN", "secret"),
            ("HF_TOKEN", ""),
            ("CIVITAI_ENDPOINT", "http://civitai.example"),
            ("CIVITAI_TOKEN", "other"),
        ]);
        let token = |url: &str| hosts.token(&Url::parse(url).unwrap());
        assert_eq!(token("https://huggingface.co/x"), Some("secret"));
        for other in [
            "https://huggingface.co.evil.example/x",
            "https://cdn.huggingface.co/",
            "http://huggingface.co/x",
            "https://huggingface.co:444/",
            "http://civitai.example/x",
        ] {
            assert_eq!(token(other), None, "{other}");
        }
        assert!(!format!("{hosts:?}").contains("secret"));
        assert!(
            hosts
                .mend_refusal(&Url::parse("https://huggingface.co/x").unwrap())
                .contains("HF_API_TOKEN")
        );
    }

    #[test]
    fn what_is_shown_of_an_address_holds_no_secret() {
        let url = Url::parse("https://u:p@h/x?token=secret#s").unwrap();
        assert_eq!(shown(&url), "https://h/x");
        let source = Source::Url(Url::parse("https://h/x?token=secret").unwrap());
        let key = source.key();
        assert!(!format!("{key}{source}{source:?}").contains("secret"));
        assert_ne!(
            key,
            Source::Url(Url::parse("https://h/x?token=other").unwrap()).key()
        );
    }
}
