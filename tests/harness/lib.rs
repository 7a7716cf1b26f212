// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lab: namespaces, brokers, clients, and the agent under test.
