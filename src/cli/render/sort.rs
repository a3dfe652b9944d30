//! The order of the list: `--sort name`, `--sort memory:desc`.

use super::row::ProcRow;
use std::cmp::Ordering;

/// What the list can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortField {
    /// The app's name, by code point.
    Name,
    /// The namespace, by code point.
    Namespace,
    /// The process id.
    Pid,
    /// The PM2 id.
    Id,
    /// CPU use.
    Cpu,
    /// Memory use.
    Memory,
    /// The moment of the last start, so ascending puts the longest running first (pm2 7.0.4).
    Uptime,
    /// The status word.
    Status,
}

/// The names of the fields, as they are typed.
const FIELDS: [(&str, SortField); 8] = [
    ("name", SortField::Name),
    ("namespace", SortField::Namespace),
    ("pid", SortField::Pid),
    ("id", SortField::Id),
    ("cpu", SortField::Cpu),
    ("memory", SortField::Memory),
    ("uptime", SortField::Uptime),
    ("status", SortField::Status),
];

/// An order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// By what.
    pub field: SortField,
    /// Largest first.
    pub descending: bool,
}

impl Default for Sort {
    /// By name, ascending: PM2's default.
    fn default() -> Self {
        Self {
            field: SortField::Name,
            descending: false,
        }
    }
}

/// Why a `--sort` value was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SortError {
    /// There is no such field.
    #[error("cannot sort by {0:?}; use one of {names}", names = field_names())]
    Field(String),
    /// The part after the colon is neither `asc` nor `desc`.
    #[error("cannot sort in the order {0:?}; use \"asc\" or \"desc\"")]
    Order(String),
}

fn field_names() -> String {
    FIELDS.map(|(name, _)| name).join(", ")
}

impl Sort {
    /// Parses `name`, `name:asc` or `name:desc`; the errors list what there is.
    pub fn parse(text: &str) -> Result<Self, SortError> {
        let (field, order) = text.split_once(':').unwrap_or((text, "asc"));
        let Some((_, field)) = FIELDS.iter().find(|(name, _)| *name == field) else {
            return Err(SortError::Field(field.to_owned()));
        };
        let descending = match order {
            "asc" => false,
            "desc" => true,
            other => return Err(SortError::Order(other.to_owned())),
        };
        Ok(Self {
            field: *field,
            descending,
        })
    }

    /// How `a` stands to `b`; equal rows keep the order they came in.
    pub fn compare(self, a: &ProcRow, b: &ProcRow) -> Ordering {
        let order = match self.field {
            SortField::Name => a.name.cmp(&b.name),
            SortField::Namespace => a.namespace.cmp(&b.namespace),
            SortField::Pid => a.pid.cmp(&b.pid),
            SortField::Id => a.pm_id.cmp(&b.pm_id),
            SortField::Cpu => a.cpu.total_cmp(&b.cpu),
            SortField::Memory => a.memory.cmp(&b.memory),
            SortField::Uptime => a.pm_uptime.cmp(&b.pm_uptime),
            SortField::Status => a.status.cmp(&b.status),
        };
        if self.descending {
            order.reverse()
        } else {
            order
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_parses_in_both_orders() {
        for (name, field) in FIELDS {
            assert_eq!(
                Sort::parse(name),
                Ok(Sort {
                    field,
                    descending: false
                })
            );
            assert_eq!(
                Sort::parse(&format!("{name}:desc")),
                Ok(Sort {
                    field,
                    descending: true
                })
            );
        }
    }

    #[test]
    fn a_wrong_sort_names_what_there_is() {
        let error = Sort::parse("size").expect_err("no such field").to_string();
        assert!(
            error.contains("name, namespace, pid, id, cpu, memory, uptime, status"),
            "{error}"
        );
        assert!(
            Sort::parse("name:up")
                .expect_err("no such order")
                .to_string()
                .contains("desc")
        );
    }
}
