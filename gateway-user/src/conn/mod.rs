// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One connection: accept, peek, decide, act, record.
