// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Gives an untyped tree a type, and knows the path at which it did not fit
//! and the fields that the type does not have.
//!
//! `null` stands for an absent field, as in Kubernetes; but not for a
//! condition, where it would make a rule match everything.

use std::{cell::RefCell, fmt};

use serde::{
    Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, Error as _, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, Visitor,
    },
};
use serde_yaml::Value;

use crate::resource::Step;

/// A field that the type does not have.
#[derive(Debug)]
pub struct UnknownField {
    /// Where.
    pub path: Vec<Step>,
    /// A field of a similar name.
    pub suggestion: Option<&'static str>,
}

/// A value that does not fit.
#[derive(Debug)]
pub struct TypeError {
    /// Where.
    pub path: Vec<Step>,
    /// Why.
    pub message: String,
}

/// The typed value or why there is none, and the fields left over.
pub fn from_value<T: DeserializeOwned>(
    value: Value,
    prefix: Vec<Step>,
) -> (Result<T, TypeError>, Vec<UnknownField>) {
    let state = RefCell::new(State {
        path: prefix,
        unknown: Vec::new(),
    });
    let result = T::deserialize(Typed {
        value,
        state: &state,
    });
    let State { path, unknown } = state.into_inner();
    // Steps are taken back only on success, so the path is that of the failure.
    (
        result.map_err(|Mismatch(message)| TypeError { path, message }),
        unknown,
    )
}

struct State {
    path: Vec<Step>,
    unknown: Vec<UnknownField>,
}

#[derive(Debug)]
struct Mismatch(String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}

impl serde::de::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

struct Typed<'s> {
    value: Value,
    state: &'s RefCell<State>,
}

impl<'s> Typed<'s> {
    fn unexpected(&self, expected: &dyn serde::de::Expected) -> Mismatch {
        let seen = match &self.value {
            Value::Null => Unexpected::Other("null"),
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(_) => Unexpected::Other("a number"),
            Value::String(text) => Unexpected::Str(text),
            Value::Sequence(_) => Unexpected::Other("a list"),
            Value::Mapping(_) => Unexpected::Other("a mapping"),
            Value::Tagged(_) => Unexpected::Other("a tagged value"),
        };
        Mismatch::invalid_type(seen, expected)
    }

    fn child<T>(
        state: &'s RefCell<State>,
        step: Step,
        value: Value,
        read: impl FnOnce(Typed<'s>) -> Result<T, Mismatch>,
    ) -> Result<T, Mismatch> {
        state.borrow_mut().path.push(step);
        let result = read(Typed { value, state })?;
        state.borrow_mut().path.pop();
        Ok(result)
    }
}

impl<'de> Deserializer<'de> for Typed<'_> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Mapping(mapping) => visitor.visit_map(Entries {
                entries: mapping.into_iter(),
                fields: None,
                value: None,
                state: self.state,
            }),
            Value::Sequence(items) => visitor.visit_seq(Items {
                items: items.into_iter().enumerate(),
                state: self.state,
            }),
            Value::Null | Value::Tagged(_) => Err(self.unexpected(&visitor)),
            scalar => scalar
                .deserialize_any(visitor)
                .map_err(|error| Mismatch(error.to_string())),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Mapping(mapping) => visitor.visit_map(Entries {
                entries: mapping.into_iter(),
                fields: Some(fields),
                value: None,
                state: self.state,
            }),
            _ => Err(self.unexpected(&"a mapping")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string
        bytes byte_buf unit unit_struct seq tuple tuple_struct map enum identifier
    }
}

struct Items<'s> {
    items: std::iter::Enumerate<std::vec::IntoIter<Value>>,
    state: &'s RefCell<State>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Mismatch> {
        let Some((index, value)) = self.items.next() else {
            return Ok(None);
        };
        Typed::child(self.state, Step::Index(index), value, |typed| {
            seed.deserialize(typed)
        })
        .map(Some)
    }
}

struct Entries<'s> {
    entries: serde_yaml::mapping::IntoIter,
    /// Those of a struct; a map takes any key.
    fields: Option<&'static [&'static str]>,
    value: Option<(String, Value)>,
    state: &'s RefCell<State>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Mismatch> {
        for (key, value) in self.entries.by_ref() {
            let key = match key {
                Value::String(key) => key,
                Value::Number(key) => key.to_string(),
                Value::Bool(key) => key.to_string(),
                _ => return Err(Mismatch::custom("a key must be a string")),
            };
            if let Some(fields) = self.fields {
                if !fields.contains(&key.as_str()) {
                    let suggestion = similar(&key, fields);
                    let mut state = self.state.borrow_mut();
                    let mut path = state.path.clone();
                    path.push(Step::Key(key));
                    state.unknown.push(UnknownField { path, suggestion });
                    continue;
                }
                if value.is_null() && key != "match" && !within_match(&self.state.borrow().path) {
                    continue;
                }
            }
            self.value = Some((key.clone(), value));
            return seed.deserialize(key.into_deserializer()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        let (key, value) = self
            .value
            .take()
            .ok_or_else(|| Mismatch::custom("a value without a key"))?;
        let required = within_match(&self.state.borrow().path) || key == "match";
        Typed::child(self.state, Step::Key(key), value, |typed| {
            if required && typed.value.is_null() {
                return Err(Mismatch::custom(
                    "a condition without a value would match everything; give it one or remove it",
                ));
            }
            seed.deserialize(typed)
        })
    }
}

fn within_match(path: &[Step]) -> bool {
    path.iter()
        .any(|step| matches!(step, Step::Key(key) if key == "match"))
}

/// The field whose name is a third or less away from `key`.
fn similar(key: &str, fields: &'static [&'static str]) -> Option<&'static str> {
    fields
        .iter()
        .map(|field| (distance(&key.to_lowercase(), &field.to_lowercase()), *field))
        .filter(|(distance, field)| *distance * 3 <= field.len().max(3))
        .min()
        .map(|(_, field)| field)
}

/// Levenshtein distance. Keys longer than any field are not compared.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX / 4;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let cost = if a == *b { diagonal } else { diagonal + 1 };
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
