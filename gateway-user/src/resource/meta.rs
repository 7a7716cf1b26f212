// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What every resource has: name, labels, annotations and a position.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::{
    origin::Origin,
    resource::{Lines, Place},
};

/// Namespace and name. Unique within a kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// `default` when the document names none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Name, labels and position of a resource.
#[derive(Clone, Debug)]
pub struct Meta {
    /// Name.
    pub id: ObjectId,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Where the document starts.
    pub origin: Origin,
    /// Lines of its nodes.
    pub lines: Lines,
}

impl Meta {
    /// The document itself, from which the line of any node is found.
    pub fn place(&self) -> Place<'_> {
        self.lines.place(&self.origin)
    }

    /// Its `spec`.
    pub fn spec(&self) -> Place<'_> {
        self.place().key("spec")
    }

    /// The line of an annotation.
    pub fn annotation(&self, key: &str) -> Place<'_> {
        self.place().key("metadata").key("annotations").key(key)
    }
}

/// A resource: metadata and the shape of its kind.
#[derive(Clone, Debug)]
pub struct Object<T> {
    /// Name, labels, position.
    pub meta: Meta,
    /// The rest.
    pub spec: T,
}

/// A field that the kind has and this gateway stores nothing of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opaque;

impl<'de> Deserialize<'de> for Opaque {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// `metadata` as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RawMetadata {
    /// Required.
    pub name: Option<String>,
    /// Optional.
    pub namespace: Option<String>,
    /// Optional.
    pub labels: BTreeMap<String, String>,
    /// Optional.
    pub annotations: BTreeMap<String, String>,
    /// Known, not used from files.
    pub generate_name: Option<Opaque>,
    /// Known, not used.
    pub creation_timestamp: Option<Opaque>,
    /// Known, not used.
    pub deletion_timestamp: Option<Opaque>,
    /// Known, not used.
    pub deletion_grace_period_seconds: Option<Opaque>,
    /// Known, not used.
    pub finalizers: Option<Opaque>,
    /// Known, not used.
    pub generation: Option<Opaque>,
    /// Known, not used.
    pub managed_fields: Option<Opaque>,
    /// Known, not used.
    pub owner_references: Option<Opaque>,
    /// Known, not used.
    pub resource_version: Option<Opaque>,
    /// Known, not used.
    pub self_link: Option<Opaque>,
    /// Known, not used.
    pub uid: Option<Opaque>,
}

/// A document whose kind keeps everything in `spec`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecDocument<T> {
    /// Known by now.
    #[serde(rename = "apiVersion")]
    _api_version: Opaque,
    /// Known by now.
    #[serde(rename = "kind")]
    _kind: Opaque,
    /// Read before the rest.
    #[serde(default, rename = "metadata")]
    _metadata: Option<Opaque>,
    /// The shape.
    pub spec: Option<T>,
    /// Written by controllers.
    #[serde(default, rename = "status")]
    _status: Option<Opaque>,
}

/// A number or a name, as in `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumberOrName {
    /// A port number; judged later.
    Number(u64),
    /// The name of a port.
    Name(String),
}

impl<'de> Deserialize<'de> for NumberOrName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = NumberOrName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number or name")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<NumberOrName, E> {
                Ok(NumberOrName::Number(number))
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<NumberOrName, E> {
                Ok(NumberOrName::Name(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
