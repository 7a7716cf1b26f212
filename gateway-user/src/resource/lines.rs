// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The line of every node of a document, so that a finding about a field can
//! name the line the field stands on.

use std::fmt;

use crate::origin::Origin;

/// The lines of one document.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    root: Node,
}

/// A node and its children.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// From 1; 0 when unknown. For an entry of a mapping the line of its key.
    pub line: u32,
    /// Whether the kind has no such field.
    pub unknown: bool,
    /// What is inside.
    pub children: Children,
}

/// What is inside a node.
#[derive(Clone, Debug, Default)]
pub enum Children {
    /// A scalar, or an alias, whose children stand elsewhere.
    #[default]
    None,
    /// Entries in the order written.
    Map(Vec<(Box<str>, Node)>),
    /// Items.
    List(Vec<Node>),
}

/// One step of a path into a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// A node within a document; steps to nodes that do not exist stay on the line
/// of the last one that does.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    document: &'a Origin,
    line: u32,
    node: Option<&'a Node>,
}

impl Lines {
    /// Lines of a document whose root is `root`.
    pub fn new(root: Node) -> Self {
        Self { root }
    }

    /// The root.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// The root as a place of the document at `document`.
    pub fn place<'a>(&'a self, document: &'a Origin) -> Place<'a> {
        Place {
            document,
            line: document.line,
            node: Some(&self.root),
        }
    }

    /// Notes that the kind has no field at `path`.
    pub fn mark_unknown(&mut self, path: &[Step]) {
        let mut node = &mut self.root;
        for step in path {
            match node.child_mut(step) {
                Some(child) => node = child,
                None => return,
            }
        }
        node.unknown = true;
    }

    /// The line of the deepest node on `path` that is known.
    pub fn line(&self, path: &[Step]) -> u32 {
        let mut node = &self.root;
        for step in path {
            match node.child(step) {
                Some(child) => node = child,
                None => break,
            }
        }
        node.line
    }
}

impl Node {
    /// The child a step leads to.
    pub fn child(&self, step: &Step) -> Option<&Self> {
        match (&self.children, step) {
            (Children::Map(entries), Step::Key(key)) => {
                entries.iter().find(|(k, _)| **k == **key).map(|(_, n)| n)
            }
            (Children::List(items), Step::Index(index)) => items.get(*index),
            _ => None,
        }
    }

    fn child_mut(&mut self, step: &Step) -> Option<&mut Self> {
        match (&mut self.children, step) {
            (Children::Map(entries), Step::Key(key)) => entries
                .iter_mut()
                .find(|(k, _)| **k == **key)
                .map(|(_, n)| n),
            (Children::List(items), Step::Index(index)) => items.get_mut(*index),
            _ => None,
        }
    }
}

impl<'a> Place<'a> {
    /// The entry of a mapping.
    pub fn key(self, key: &str) -> Self {
        let child = self.node.and_then(|node| match &node.children {
            Children::Map(entries) => entries.iter().find(|(k, _)| **k == *key).map(|(_, n)| n),
            _ => None,
        });
        self.into_child(child)
    }

    /// The item of a list.
    pub fn index(self, index: usize) -> Self {
        let child = self.node.and_then(|node| match &node.children {
            Children::List(items) => items.get(index),
            _ => None,
        });
        self.into_child(child)
    }

    /// Its file and line.
    pub fn origin(self) -> Origin {
        self.document.at(self.line)
    }

    /// Names of the fields inside, at any depth, that the kind does not have.
    pub fn unknown_fields(self) -> Vec<&'a str> {
        let mut found = Vec::new();
        if let Some(node) = self.node {
            collect_unknown(node, &mut found);
        }
        found
    }

    /// The same for its own fields only.
    pub fn unknown_fields_here(self) -> Vec<&'a str> {
        match self.node.map(|node| &node.children) {
            Some(Children::Map(entries)) => entries
                .iter()
                .filter(|(_, child)| child.unknown)
                .map(|(key, _)| &**key)
                .collect(),
            _ => Vec::new(),
        }
    }

    fn into_child(self, child: Option<&'a Node>) -> Self {
        Self {
            document: self.document,
            line: child.map_or(self.line, |node| node.line),
            node: child,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// `spec.servers[0].port`.
pub fn path_text(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        if !text.is_empty() && matches!(step, Step::Key(_)) {
            text.push('.');
        }
        text.push_str(&step.to_string());
    }
    text
}

/// Depth is bounded by the decoder, so recursion is.
fn collect_unknown<'a>(node: &'a Node, found: &mut Vec<&'a str>) {
    match &node.children {
        Children::None => {}
        Children::Map(entries) => {
            for (key, child) in entries {
                if child.unknown {
                    found.push(key);
                } else {
                    collect_unknown(child, found);
                }
            }
        }
        Children::List(items) => {
            for item in items {
                collect_unknown(item, found);
            }
        }
    }
}
