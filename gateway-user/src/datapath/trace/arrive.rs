// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the packet comes in, and whether a program meets it there.

use super::{Ingress, Outcome, Walk, node::Way, pinned::asked, stack};
use crate::datapath::{DatapathError, exclusive, pins};

/// The interface that the packet comes in by.
///
/// # Errors
/// When it cannot be told.
pub fn interface(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    let (_, here) = exclusive::network_namespace()?;
    let links = walk.pins.links();
    let attached =
        pins::namespace(&links).map_err(DatapathError::file("open the links in", links.clone()))?;
    if attached.is_some_and(|there| there != here) {
        walk.missing(
            "namespace",
            "the programs are attached in another network namespace than this one: run it there \
             (nsenter --net)",
        );
    }
    let Some(index) = index(walk)? else {
        walk.found(
            "interface",
            "none: what this node itself sends meets no program on its way in",
        );
        return stack::local(walk).map(Some);
    };
    let Some(link) = walk.node.link(index).cloned() else {
        return Err(undecided(format!("find the interface {index}")));
    };
    let found = pins::found(&links, &link.name, index)
        .map_err(DatapathError::file("open the links in", links))?;
    let Some((hook, program)) = found else {
        walk.missing(
            "interface",
            format!(
                "{0}: no program: nothing that comes in by it is forwarded; add {0} to \
                 wire_interfaces (clients) or pod_interfaces (backends)",
                link.name
            ),
        );
        return stack::pass(walk).map(Some);
    };
    walk.found(
        "interface",
        format!("{}: {hook}, program id {program}", link.name),
    );
    if !link.running {
        walk.fails_later = true;
        walk.missing(
            "interface",
            format!("{} is down: nothing comes in by it", link.name),
        );
    }
    walk.ingress = Some(Ingress {
        name: link.name,
        index,
        mtu: link.mtu,
        hook,
    });
    Ok(None)
}

/// Its index; none for packets of this node itself.
fn index(walk: &mut Walk<'_>) -> Result<Option<u32>, DatapathError> {
    if let Some(name) = &walk.query.interface {
        let link = walk.node.named(name);
        return match link {
            Some(link) => Ok(Some(link.index)),
            None => Err(undecided(format!(
                "find the interface {name} (--interface)"
            ))),
        };
    }
    let from = walk.query.from.ip();
    match walk.node.way(from)? {
        Way::Local => Ok(None),
        Way::Out(index) => Ok(Some(index)),
        Way::None => Err(undecided(format!(
            "tell which interface {from} comes in by: no route leads back to it; name it with \
             --interface"
        ))),
    }
}

fn undecided(operation: String) -> DatapathError {
    asked(operation)(std::io::ErrorKind::NotFound.into())
}
