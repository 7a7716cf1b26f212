// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What would serve a connection or request, or why none would.
