// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether the source may open flows to the service.

use gateway_common::{drop_reason::DropReason, source::NO_SOURCE_LIST};

use super::{Outcome, Walk};
use crate::datapath::DatapathError;

/// Whether the service's list takes the source.
///
/// # Errors
/// When the map cannot be read.
pub fn sources(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    let Some(service) = walk.service else {
        return Ok(None);
    };
    if service.source_list == NO_SOURCE_LIST {
        walk.found("sources", "everyone may connect");
        return Ok(None);
    }
    let list = service.source_list;
    if walk.pinned.is_allowed(list, walk.key.src)? {
        walk.found("sources", format!("{} is taken", walk.query.from.ip()));
        return Ok(None);
    }
    let reason = DropReason::SourceDenied;
    walk.missing(
        "sources",
        format!(
            "{} is not taken: dropped as {}; see `sluice explain --source`",
            walk.query.from.ip(),
            reason.name()
        ),
    );
    Ok(Some(Outcome::dropped(reason)))
}
