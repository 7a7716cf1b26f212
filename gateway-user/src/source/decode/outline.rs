// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lines of every node, read from the parser's events, and the bounds that
//! keep a hostile file small: depth, and size after aliases are followed.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser};

use crate::resource::{Node, lines::Children};

/// Deepest nesting accepted; `serde_yaml` has the same limit.
const MAX_DEPTH: usize = 100;

/// Most nodes a file may have once aliases are replaced by what they name.
const MAX_NODES: u64 = 2_000_000;

/// Why a text is refused.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct OutlineError {
    /// Line, from 1.
    pub line: u32,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("not YAML: {0}; correct it")]
    Syntax(String),
    #[error("nested deeper than {MAX_DEPTH} levels")]
    Depth,
    #[error(
        "more than {MAX_NODES} nodes once aliases are followed; write them out or split the file"
    )]
    Size,
    #[error("an alias without its anchor")]
    Alias,
}

/// One root node for each document of the text, empty documents included.
pub fn documents(text: &str) -> Result<Vec<Node>, OutlineError> {
    let mut outline = Outline::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|error| OutlineError {
            line: line(error.marker().line()),
            problem: Problem::Syntax(error.info().to_owned()),
        })?;
        let at = line(span.start.line());
        outline
            .event(event, at)
            .map_err(|problem| OutlineError { line: at, problem })?;
    }
    Ok(outline.documents)
}

/// The line of the first key that stands twice in its mapping: the parser of
/// values refuses it, but only knows where the document starts.
pub fn duplicate_key(documents: &[Node]) -> Option<u32> {
    let mut first: Option<u32> = None;
    let mut pending: Vec<&Node> = documents.iter().collect();
    while let Some(node) = pending.pop() {
        match &node.children {
            Children::None => {}
            Children::List(items) => pending.extend(items),
            Children::Map(entries) => {
                let mut seen = HashSet::new();
                for (key, child) in entries {
                    pending.push(child);
                    // Keys that are not text have no name here.
                    if !key.is_empty() && !seen.insert(key) {
                        first = Some(first.map_or(child.line, |line| line.min(child.line)));
                    }
                }
            }
        }
    }
    first
}

fn line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

#[derive(Default)]
struct Outline {
    documents: Vec<Node>,
    open: Vec<Open>,
    /// Nodes under each anchor, aliases followed.
    anchors: HashMap<usize, u64>,
    total: u64,
}

/// A collection whose end has not come yet.
struct Open {
    node: Node,
    anchor: usize,
    nodes: u64,
    /// The key that waits for its value.
    key: Option<(Box<str>, u32)>,
}

impl Outline {
    fn event(&mut self, event: Event<'_>, at: u32) -> Result<(), Problem> {
        match event {
            Event::Scalar(text, _, anchor, _) => {
                if self.awaits_key() {
                    self.set_key(text.into(), at);
                    return self.count(1, anchor);
                }
                self.count(1, anchor)?;
                self.attach(Node {
                    line: at,
                    ..Node::default()
                });
            }
            Event::Alias(anchor) => {
                let nodes = *self.anchors.get(&anchor).ok_or(Problem::Alias)?;
                self.count(nodes, 0)?;
                if self.awaits_key() {
                    self.set_key("".into(), at);
                } else {
                    self.attach(Node {
                        line: at,
                        ..Node::default()
                    });
                }
            }
            Event::MappingStart(anchor, _) => {
                self.open(anchor, at, Children::Map(Vec::new()))?;
            }
            Event::SequenceStart(anchor, _) => {
                self.open(anchor, at, Children::List(Vec::new()))?;
            }
            Event::MappingEnd | Event::SequenceEnd => self.close(),
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, anchor: usize, at: u32, children: Children) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Problem::Depth);
        }
        self.count(1, 0)?;
        self.open.push(Open {
            node: Node {
                line: at,
                unknown: false,
                children,
            },
            anchor,
            nodes: 1,
            key: None,
        });
        Ok(())
    }

    fn close(&mut self) {
        let Some(Open {
            node,
            anchor,
            nodes,
            ..
        }) = self.open.pop()
        else {
            return;
        };
        if anchor != 0 {
            self.anchors.insert(anchor, nodes);
        }
        if let Some(parent) = self.open.last_mut() {
            parent.nodes += nodes;
        }
        if self.awaits_key() {
            // A collection as a key: no resource has one.
            self.set_key("".into(), node.line);
        } else {
            self.attach(node);
        }
    }

    /// Counts nodes where they stand, and again where an alias repeats them.
    fn count(&mut self, nodes: u64, anchor: usize) -> Result<(), Problem> {
        self.total = self.total.saturating_add(nodes);
        if anchor != 0 {
            self.anchors.insert(anchor, nodes);
        }
        if let Some(open) = self.open.last_mut() {
            open.nodes = open.nodes.saturating_add(nodes);
        }
        if self.total > MAX_NODES {
            Err(Problem::Size)
        } else {
            Ok(())
        }
    }

    fn awaits_key(&self) -> bool {
        self.open.last().is_some_and(|open| {
            matches!(open.node.children, Children::Map(_)) && open.key.is_none()
        })
    }

    fn set_key(&mut self, key: Box<str>, at: u32) {
        if let Some(open) = self.open.last_mut() {
            open.key = Some((key, at));
        }
    }

    fn attach(&mut self, mut node: Node) {
        match self.open.last_mut() {
            None => self.documents.push(node),
            Some(open) => match &mut open.node.children {
                Children::List(items) => items.push(node),
                Children::Map(entries) => {
                    let (key, at) = open.key.take().unwrap_or_default();
                    // The line of an entry is that of its key: the value of a
                    // block mapping only starts on the next.
                    node.line = at;
                    entries.push((key, node));
                }
                Children::None => {}
            },
        }
    }
}
