// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The agent's own settings: config/gateway.yaml, parsed and resolved.
