//! Reads any JSON value into the few forms a table needs, without failing and without keeping what is not wanted.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A JSON value, flattened: enough for a cell.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Scalar {
    /// `null`, or nothing.
    #[default]
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    /// An array or an object, whatever is in it.
    Nested,
}

impl Scalar {
    /// As text, if it is one or a number.
    pub(super) fn text(self) -> Option<String> {
        match self {
            Scalar::Text(text) => Some(text),
            Scalar::Number(number) => Some(super::js::number(number)),
            Scalar::Null | Scalar::Bool(_) | Scalar::Nested => None,
        }
    }

    /// As a number, if it is one or text of one.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Scalar::Number(number) => Some(*number),
            Scalar::Text(text) => text
                .trim()
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite()),
            Scalar::Null | Scalar::Bool(_) | Scalar::Nested => None,
        }
    }

    /// As a whole number, rounded down, clamped to the range; `None` if it is none.
    pub(super) fn whole(&self) -> Option<u64> {
        self.number().map(|number| number as u64) // `as` clamps: negative to 0, too large to the maximum.
    }

    /// As a truth value, the way JavaScript has it.
    pub(super) fn truthy(&self) -> bool {
        match self {
            Scalar::Null => false,
            Scalar::Bool(bool) => *bool,
            Scalar::Number(number) => *number != 0.0,
            Scalar::Text(text) => !text.is_empty(),
            Scalar::Nested => true,
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested)
    }
}
