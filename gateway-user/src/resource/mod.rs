// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Resources: YAML documents as typed shapes, no meaning.
