// SPDX-License-Identifier: Apache-2.0 OR MIT
//! YAML and JSON text to resources, with the line of every finding.
//!
//! Two parsers read the text: one for the lines and the bounds on depth and
//! aliases (`outline`), `serde_yaml` for the values. What either refuses is a
//! syntax error of the whole file; what has a wrong type costs its document.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_yaml::Value;

use crate::{
    diagnostic::{Diagnostic, Reason},
    origin::Origin,
    resource::{
        Lines, Meta, Node, Object, ObjectId, Resource, Step,
        lines::path_text,
        meta::{RawMetadata, SpecDocument},
    },
};

mod outline;
mod typed;

#[cfg(test)]
mod tests;

/// Largest file that is read. Kubernetes limits one object to 1.5 MiB.
pub const MAX_FILE_BYTES: usize = 16 << 20;

/// What one file holds.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// Resources in the order written.
    pub resources: Vec<Resource>,
    /// Findings in the order of lines.
    pub diagnostics: Vec<Diagnostic>,
    /// Objects that are named but cannot be used as written.
    pub failed: Vec<Failed>,
}

/// An object that is named but cannot be used as written.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub id: ObjectId,
    /// How many resources of the file stand before it.
    pub position: usize,
    /// Its document.
    pub origin: Origin,
}

/// Reads every document of `text`; `file` is the name shown in findings.
///
/// # Errors
/// One finding of reason [`Reason::Syntax`] when the text is not YAML, is cut
/// off, or is too large, too deep or swollen by aliases. Nothing of it is used
/// then.
pub fn decode(file: &Arc<str>, text: &str) -> Result<Decoded, Diagnostic> {
    if text.len() > MAX_FILE_BYTES {
        return Err(Diagnostic::error(
            &Origin::new(Arc::clone(file), 0),
            Reason::Syntax,
            format!("the file has more than {MAX_FILE_BYTES} bytes; split it"),
        ));
    }
    let syntax = |line: u32, message: String| {
        Diagnostic::error(
            &Origin::new(Arc::clone(file), line),
            Reason::Syntax,
            message,
        )
    };
    let outlines =
        outline::documents(text).map_err(|error| syntax(error.line, error.to_string()))?;
    let values = values(file, text).map_err(|(line, message)| {
        let line = match outline::duplicate_key(&outlines) {
            Some(second) if message.contains("duplicate entry") => second,
            _ => line,
        };
        syntax(line, message)
    })?;
    let mut decoded = Decoded::default();
    for (index, value) in values.into_iter().enumerate() {
        let root = outlines.get(index).cloned().unwrap_or_default();
        document(file, value, root, &mut decoded);
    }
    decoded.diagnostics.sort();
    Ok(decoded)
}

/// Every document as an untyped tree. JSON files go through the JSON parser,
/// because YAML refuses the tabs that JSON allows.
fn values(file: &str, text: &str) -> Result<Vec<Value>, (u32, String)> {
    let line = |line: usize| u32::try_from(line).unwrap_or(u32::MAX);
    let mut values = Vec::new();
    if file.ends_with(".json") {
        for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
            values.push(
                value.map_err(|error| {
                    (line(error.line()), format!("not JSON: {error}; correct it"))
                })?,
            );
        }
        return Ok(values);
    }
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = <Value as serde::Deserialize>::deserialize(document).and_then(|mut value| {
            value.apply_merge()?;
            Ok(value)
        });
        values.push(value.map_err(|error| {
            let at = error.location().map_or(0, |location| location.line());
            (line(at), format!("not YAML: {error}; correct it"))
        })?);
    }
    Ok(values)
}

/// One document, or each item of a list.
fn document(file: &Arc<str>, value: Value, root: Node, decoded: &mut Decoded) {
    let lines = Lines::new(root);
    let origin = Origin::new(Arc::clone(file), lines.root().line);
    let mapping = match value {
        Value::Null => return,
        Value::Mapping(mapping) => mapping,
        _ => {
            decoded.diagnostics.push(Diagnostic::error(
                &origin,
                Reason::InvalidValue,
                "a document must be a mapping with apiVersion, kind, metadata and spec",
            ));
            return;
        }
    };
    let text = |key: &str| mapping.get(key).and_then(Value::as_str).map(str::to_owned);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        decoded.diagnostics.push(Diagnostic::error(
            &origin,
            Reason::MissingField,
            "a document needs apiVersion and kind; it is ignored",
        ));
        return;
    };
    if kind.ends_with("List") && mapping.contains_key("items") {
        items(file, mapping, &lines, decoded);
        return;
    }
    let mut reader = Reader {
        origin,
        lines,
        kind: kind.clone(),
        mapping,
        diagnostics: &mut decoded.diagnostics,
        named: None,
    };
    let resource = reader.resource(&api_version, &kind);
    if let (None, Some(id)) = (&resource, reader.named.take()) {
        let origin = reader.origin;
        decoded.failed.push(Failed {
            kind,
            id,
            position: decoded.resources.len(),
            origin,
        });
    }
    decoded.resources.extend(resource);
}

fn items(file: &Arc<str>, mut mapping: serde_yaml::Mapping, lines: &Lines, decoded: &mut Decoded) {
    let key = Step::Key("items".to_owned());
    let place = lines.root().child(&key);
    match mapping.remove("items") {
        Some(Value::Sequence(items)) => {
            for (index, item) in items.into_iter().enumerate() {
                let node = place.and_then(|node| node.child(&Step::Index(index)));
                document(file, item, node.cloned().unwrap_or_default(), decoded);
            }
        }
        Some(Value::Null) | None => {}
        Some(_) => decoded.diagnostics.push(Diagnostic::error(
            &Origin::new(Arc::clone(file), lines.line(&[key])),
            Reason::InvalidValue,
            "items must be a list; the document is ignored",
        )),
    }
}

/// Turns one mapping into a resource.
struct Reader<'a> {
    origin: Origin,
    lines: Lines,
    kind: String,
    mapping: serde_yaml::Mapping,
    diagnostics: &'a mut Vec<Diagnostic>,
    /// The name, once it is known.
    named: Option<ObjectId>,
}

impl Reader<'_> {
    fn resource(&mut self, api_version: &str, kind: &str) -> Option<Resource> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let istio =
            group == "networking.istio.io" && matches!(version, "v1" | "v1beta1" | "v1alpha3");
        let security = group == "security.istio.io" && matches!(version, "v1" | "v1beta1");
        match (group, version, kind) {
            (_, _, "Gateway") if istio => self.spec().map(Resource::Gateway),
            (_, _, "VirtualService") if istio => self.spec().map(Resource::VirtualService),
            (_, _, "DestinationRule") if istio => self.spec().map(Resource::DestinationRule),
            (_, _, "ServiceEntry") if istio => self.spec().map(Resource::ServiceEntry),
            (_, _, "WorkloadEntry") if istio => self.spec().map(Resource::WorkloadEntry),
            (_, _, "AuthorizationPolicy") if security => {
                self.spec().map(Resource::AuthorizationPolicy)
            }
            ("", "v1", "Service") => self.spec().map(Resource::Service),
            ("", "v1", "Secret") => self.flat().map(Resource::Secret),
            ("discovery.k8s.io", "v1", "EndpointSlice") => self.flat().map(Resource::EndpointSlice),
            _ => {
                let place = if group == "networking.istio.io" && !istio {
                    "apiVersion"
                } else {
                    "kind"
                };
                let line = self.lines.line(&[Step::Key(place.to_owned())]);
                self.diagnostics.push(Diagnostic::warning(
                    &self.origin.at(line),
                    Reason::UnknownKind,
                    format!(
                        "{kind} of {api_version} is not a kind this gateway acts on; it is ignored"
                    ),
                ));
                None
            }
        }
    }

    /// A kind that keeps everything in `spec`.
    fn spec<T: DeserializeOwned>(&mut self) -> Option<Arc<Object<T>>> {
        let meta = self.metadata()?;
        let document: SpecDocument<T> = self.read(&meta.id)?;
        let Some(spec) = document.spec else {
            self.diagnostics.push(Diagnostic::error(
                &self.origin,
                Reason::MissingField,
                format!("{} {} has no spec; it is ignored", self.kind, meta.id),
            ));
            return None;
        };
        Some(self.object(meta, spec))
    }

    /// A kind whose fields stand at the top.
    fn flat<T: DeserializeOwned>(&mut self) -> Option<Arc<Object<T>>> {
        let meta = self.metadata()?;
        let spec = self.read(&meta.id)?;
        Some(self.object(meta, spec))
    }

    fn object<T>(&mut self, mut meta: Meta, spec: T) -> Arc<Object<T>> {
        meta.lines = std::mem::take(&mut self.lines);
        Arc::new(Object { meta, spec })
    }

    fn metadata(&mut self) -> Option<Meta> {
        let prefix = vec![Step::Key("metadata".to_owned())];
        let value = self
            .mapping
            .get("metadata")
            .cloned()
            .unwrap_or(Value::Mapping(serde_yaml::Mapping::new()));
        let raw: RawMetadata = self.typed(value, prefix, "the document")?;
        let Some(name) = raw.name.filter(|name| !name.is_empty()) else {
            self.diagnostics.push(Diagnostic::error(
                &self.origin,
                Reason::MissingField,
                format!("{} without metadata.name; it is ignored", self.kind),
            ));
            return None;
        };
        let id = ObjectId {
            namespace: raw
                .namespace
                .filter(|namespace| !namespace.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            name,
        };
        self.named = Some(id.clone());
        Some(Meta {
            id,
            labels: raw.labels,
            annotations: raw.annotations,
            origin: self.origin.clone(),
            lines: Lines::default(),
        })
    }

    fn read<T: DeserializeOwned>(&mut self, id: &ObjectId) -> Option<T> {
        let value = Value::Mapping(std::mem::take(&mut self.mapping));
        let what = format!("{} {id}", self.kind);
        self.typed(value, Vec::new(), &what)
    }

    /// Gives `value` a type; findings name the line of the field.
    fn typed<T: DeserializeOwned>(
        &mut self,
        value: Value,
        prefix: Vec<Step>,
        what: &str,
    ) -> Option<T> {
        let (result, unknown) = typed::from_value(value, prefix);
        for field in unknown {
            let hint = field.suggestion.map_or_else(
                || "remove it".to_owned(),
                |name| format!("did you mean {name:?}?"),
            );
            self.lines.mark_unknown(&field.path);
            self.diagnostics.push(Diagnostic::warning(
                &self.origin.at(self.lines.line(&field.path)),
                Reason::UnknownField,
                format!("unknown field {:?}; {hint}", path_text(&field.path)),
            ));
        }
        match result {
            Ok(typed) => Some(typed),
            Err(error) => {
                self.diagnostics.push(Diagnostic::error(
                    &self.origin.at(self.lines.line(&error.path)),
                    Reason::InvalidValue,
                    format!(
                        "{}: {}; {what} is ignored",
                        path_text(&error.path),
                        error.message
                    ),
                ));
                None
            }
        }
    }
}
