//! The small languages in keys, options and parameters: durations, sizes, signals, dates, targets, command lines, settings, cron patterns, watched
//! paths.

use fornax::config::Format;
use fornax::core::cron::Schedule;
use fornax::core::dateformat::{BrokenTime, DateFormat, MAX_PATTERN};
use fornax::core::ids::PmId;
use fornax::core::select::{Candidate, Target};
use fornax::core::signal::Signal;
use fornax::core::spec::args;
use fornax::core::spec::issue::{key_path, pointer_step};
use fornax::core::units::{Bytes, Millis};
use fornax::core::watch::{Filter, WatchSpec};
use fornax::daemon::settings::Settings;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// 2026-01-01T00:00:00Z.
const NOW_MS: u64 = 1_767_225_600_000;

pub fn check(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    units(text);
    signal(text);
    date(text);
    target(text);
    words(text);
    assert_eq!(
        key_path(&pointer_step(text)).is_empty(),
        text.is_empty(),
        "a key has a name"
    );
    let settings = Settings::load(Some(text), |_| Some(text.to_owned()));
    assert!(settings.rotation.max_size > Bytes(0));
    Format::of(text);
    cron(text);
    watch(text);
}

fn cron(text: &str) {
    match Schedule::parse(text) {
        Ok(schedule) => {
            assert_eq!(schedule.text(), text);
            let next = schedule.next(NOW_MS, &TimeZone::UTC);
            assert!(next.is_none_or(|at| at > NOW_MS), "{text:?}: {next:?}");
        }
        Err(error) => assert!(error.to_string().contains(text), "{error}"),
    }
}

/// The text as what is watched, and as what is left out.
fn watch(text: &str) {
    let conf = json!({"watch": [text], "ignore_watch": [text, "x"]});
    let spec = WatchSpec::from_map(conf.as_object().unwrap(), "/srv").unwrap();
    let (filter, issues) = Filter::new(&spec);
    assert!(issues.len() <= 2);
    assert!(filter.bases().all(|base| base.starts_with('/')));
    for path in ["/srv/src/a.js", "/srv", text] {
        let lies_in = |base: &str| path.starts_with(base.trim_end_matches('/'));
        assert!(
            !filter.counts(path) || filter.bases().any(lies_in),
            "{path:?} counts"
        );
        filter.leads(path);
        filter.walks(path);
    }
}

fn units(text: &str) {
    let quoted = Value::from(text).to_string();
    let (duration, size) = (Millis::parse(text), Bytes::parse(text));
    assert_eq!(serde_json::from_str::<Millis>(&quoted).ok(), duration);
    assert_eq!(serde_json::from_str::<Bytes>(&quoted).ok(), size);
    for number in duration
        .map(|it| it.0)
        .into_iter()
        .chain(size.map(|it| it.0))
    {
        assert_eq!(Millis::parse(&number.to_string()), Some(Millis(number)));
        assert_eq!(Bytes::parse(&number.to_string()), Some(Bytes(number)));
        assert!(!Millis(number).to_string().is_empty());
    }
    // A number as it stands, which may be negative, huge or no number.
    if let Ok(Millis(ms)) = serde_json::from_str::<Millis>(text) {
        assert_eq!(serde_json::to_string(&Millis(ms)).unwrap(), ms.to_string());
    }
}

fn signal(text: &str) {
    if let Some(signal) = Signal::parse(text) {
        assert!((1..=64).contains(&signal.0));
        let name = signal.to_string();
        assert_eq!(
            Signal::parse(&name),
            (signal.0 <= 31).then_some(signal),
            "{name}"
        );
    }
}

fn date(text: &str) {
    let format = DateFormat::parse(text);
    let mut time = BrokenTime {
        year: 2026,
        month: 3,
        day: 8,
        weekday: 0,
        hour: 0,
        minute: 5,
        second: 9,
        millis: 42,
        offset_minutes: 330,
    };
    let stamp = format.text(&time);
    // The longest word for a letter is `Wednesday` or `September`; an empty pattern stands for a longer one.
    assert!(stamp.len() <= MAX_PATTERN * 9, "{} bytes", stamp.len());
    time.millis = 43;
    assert!(
        format.shows_millis() || format.text(&time) == stamp,
        "{text:?}"
    );
}

fn target(text: &str) {
    let candidate = |id, name, script, module| Candidate {
        id: PmId(id),
        name,
        namespace: "default",
        script,
        module,
    };
    let all = [
        candidate(0, "web", "/srv/web.js", false),
        candidate(1, text, text, false),
        candidate(7, "pm2-x", "/srv/x.js", true),
    ];
    let Ok(target) = Target::parse(text) else {
        assert!(text.starts_with('/') && text.ends_with('/'), "{text:?}");
        return;
    };
    let meant = target.select(&all, "/");
    assert!(meant.is_sorted() && meant.iter().all(|id| all.iter().any(|one| one.id == *id)));
    if let Target::Word(_) = target {
        assert!(meant.contains(&PmId(1)), "{text:?} is its own name");
    }
}

fn words(text: &str) {
    let words = args::split(text);
    let letters = |text: &str| {
        text.chars()
            .filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\''))
            .collect::<String>()
    };
    assert_eq!(letters(&words.concat()), letters(text), "no letter is lost");
}
