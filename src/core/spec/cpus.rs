//! Which processors an app may run on: the `fornax.cpus` key, and the kernel's way to write lists of them.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The most processors that can be named: what sched_setaffinity(2) takes in glibc's set.
const MOST: usize = 1024;

/// Processors by number, or those near the app's GPU.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "CpusForm")]
pub enum Cpus {
    /// Those of the GPU's NUMA node, where there are several nodes.
    Auto,
    /// These, ascending.
    These(Vec<usize>),
}

/// How they are written in a file.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct CpusForm(#[schemars(regex(pattern = r"^(auto|\d+(-\d+)?(,\d+(-\d+)?)*)$"))] String);

impl Cpus {
    /// Reads `auto`, or a list such as `0-7,16-23` (cpuset(7)). `None` if it is neither, is empty, or names one above 1023.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "auto" => Some(Cpus::Auto),
            list => Self::list(list).map(Cpus::These),
        }
    }

    /// Reads a list.
    pub fn list(text: &str) -> Option<Vec<usize>> {
        let mut all = Vec::new();
        for part in text.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= MOST {
                return None;
            }
            all.extend(first..=last);
        }
        all.sort_unstable();
        all.dedup();
        (!all.is_empty()).then_some(all)
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Cpus::Auto => serializer.serialize_str("auto"),
            Cpus::These(all) => {
                let text: Vec<String> = all.iter().map(usize::to_string).collect();
                serializer.serialize_str(&text.join(","))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Cpus::parse(&text).ok_or_else(|| {
            de::Error::custom(
                "write \"auto\", or processors by number such as \"0-7,16-23\", up to 1023",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(Cpus::parse("auto"), Some(Cpus::Auto));
        assert_eq!(Cpus::list("0-3,8, 2").as_deref(), None);
        assert_eq!(Cpus::list("0-3,8,2\n"), Some(vec![0, 1, 2, 3, 8]));
        for wrong in ["", ",", "3-1", "a", "1024", "0-99999999999", "-1"] {
            assert_eq!(Cpus::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Some(cpus) = Cpus::parse(&text) {
                let again = serde_json::to_value(&cpus).unwrap();
                prop_assert_eq!(serde_json::from_value::<Cpus>(again).unwrap(), cpus);
            }
        }
    }
}
