// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Secret v1. Its values are never shown.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

use crate::resource::Opaque;

/// A Secret; it has no `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Secret {
    /// Known by now.
    pub api_version: Option<Opaque>,
    /// Known by now.
    pub kind: Option<Opaque>,
    /// Read before the rest.
    pub metadata: Option<Opaque>,
    /// Not checked, as Istio does not.
    #[serde(rename = "type")]
    pub secret_type: Option<Opaque>,
    /// Values in base64.
    pub data: BTreeMap<String, SecretText>,
    /// Values as they are; they win over `data`.
    pub string_data: BTreeMap<String, SecretText>,
    /// Known, not used.
    pub immutable: Option<Opaque>,
}

/// A value that may be a key.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretText({} bytes)", self.0.len())
    }
}
