// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP: validate, route, forward, respond.
