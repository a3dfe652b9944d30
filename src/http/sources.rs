//! Where the lines of services come from: their files, as the apps' specs name them, so that logs from before this daemon are
//! told too.

use super::services::{Found, Service};
use crate::adapters::logs::{Filter, LogLine, Position, TailQuery, TailTarget};
use crate::core::ids::{PmId, Stream};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// One stream of one service.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The service's name.
    pub service: Arc<str>,
    /// Its instance.
    pub id: PmId,
    /// Which stream.
    pub stream: Stream,
    /// Its file, if it has one.
    pub path: Option<PathBuf>,
    /// The other stream, or another instance, writes there too: who wrote a line of before this daemon is then not known.
    pub shared: bool,
    /// Whoever writes there writes this stream.
    pub one_stream: bool,
}

/// What a log request is about.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    /// The service's name; `None` for all.
    pub name: Option<String>,
    /// The streams there are now.
    pub sources: Vec<Source>,
    /// What to follow: an app by its name, so that instances that come later are followed too.
    pub filter: Filter,
}

impl Scope {
    /// Of one service or app.
    pub fn of(found: Found, stream: Option<Stream>) -> Self {
        let filter = match &found.app {
            Some(app) => Filter {
                name: Some(app.to_string()),
                ..Filter::default()
            },
            None => Filter {
                instances: Some(found.services.iter().map(|s| s.view.id).collect()),
                ..Filter::default()
            },
        };
        Self::new(Some(found.name), &found.services, filter, stream)
    }

    /// Of all services.
    pub fn all(services: &[Service], stream: Option<Stream>) -> Self {
        Self::new(None, services, Filter::default(), stream)
    }

    fn new(
        name: Option<String>,
        services: &[Service],
        filter: Filter,
        stream: Option<Stream>,
    ) -> Self {
        let mut sources: Vec<Source> = Vec::new();
        for service in services {
            let (view, name): (_, Arc<str>) = (&service.view, service.name.as_str().into());
            let logs = &view.spec.logs;
            for (of, path) in [(Stream::Out, &logs.out), (Stream::Err, &logs.err)] {
                sources.push(Source {
                    service: Arc::clone(&name),
                    id: view.id,
                    stream: of,
                    path: path.clone().filter(|_| !logs.disabled),
                    shared: false,
                    one_stream: true,
                });
            }
        }
        let mut writers: HashMap<PathBuf, usize> = HashMap::new();
        for path in sources.iter().filter_map(|source| source.path.clone()) {
            *writers.entry(path).or_default() += 1;
        }
        let writing: Vec<(Option<PathBuf>, Stream)> = sources
            .iter()
            .map(|source| (source.path.clone(), source.stream))
            .collect();
        for source in &mut sources {
            let path = source.path.as_ref();
            source.one_stream = writing
                .iter()
                .all(|(other, stream)| other.as_ref() != path || *stream == source.stream);
            source.shared = path.and_then(|path| writers.get(path)) > Some(&1);
        }
        sources.retain(|source| stream.is_none_or(|wanted| wanted == source.stream));
        Self {
            name,
            sources,
            filter: Filter { stream, ..filter },
        }
    }

    /// A query for the last lines of all these files, and the source of each of its targets.
    pub fn tail_query(
        &self,
        limit: usize,
        since_ms: Option<u64>,
        grep: Option<regex::bytes::Regex>,
    ) -> (TailQuery, Vec<Source>) {
        let (targets, sources) = self
            .sources
            .iter()
            .filter_map(|source| Some((TailTarget::Path(source.path.clone()?), source.clone())))
            .unzip();
        let query = TailQuery {
            targets,
            limit,
            since_ms,
            grep,
        };
        (query, sources)
    }

    /// Where to go on, by what is known of each stream. A stream with a file of which nothing is known is told from this
    /// daemon's first line on; one without a file has no past.
    pub fn positions(&self, known: impl Fn(PmId, Stream) -> Option<u64>) -> Vec<Position> {
        self.sources
            .iter()
            .filter_map(|source| {
                let after = known(source.id, source.stream);
                Some(Position {
                    instance: source.id,
                    stream: source.stream,
                    after_seq: after.or(source.path.as_ref().map(|_| 0))?,
                })
            })
            .collect()
    }
}

/// A line as an answer tells it.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct ToldLine<'a> {
    /// The service it is of; `None` if several write to its file.
    pub service: Option<&'a str>,
    /// Its instance, likewise.
    pub pm_id: Option<PmId>,
    /// Its stream, likewise.
    pub stream: Option<Stream>,
    /// The line.
    pub line: std::borrow::Cow<'a, str>,
    /// When it was written, ISO 8601; `None` for lines from before this daemon.
    pub at: Option<String>,
    /// Its number in its file since the daemon started, likewise.
    pub seq: Option<u64>,
}

impl<'a> ToldLine<'a> {
    /// Of a line read back from the file of `sources[line.target]`. Who wrote it is told where the plane knows it, or where
    /// only one could.
    pub fn of(line: &'a LogLine, sources: &'a [Source]) -> Option<Self> {
        let source = sources.get(line.target)?;
        let alone = !source.shared;
        let pm_id = line.instance.or(alone.then_some(source.id));
        let writer = sources.iter().find(|of| Some(of.id) == pm_id);
        Some(Self {
            service: writer.map(|of| &*of.service),
            pm_id,
            stream: line
                .stream
                .or((alone || source.one_stream).then_some(source.stream)),
            line: line.text.as_str().into(),
            at: line.at_ms.map(super::answer::iso),
            seq: line.seq,
        })
    }
}
