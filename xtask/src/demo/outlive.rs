// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The row no other gateway has: sessions told apart by SNI outlive the agent.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use gateway_tests::{
    client::mqtt::{self, Broker, Subscriber},
    gateway::Gateway,
    wait,
};

use super::stage::{Stage, mqtt_name};

/// What the row does.
pub const DONE: &str = "200 MQTT sessions on 8883 by SNI, kill -9, restart";
/// What is to come of it.
pub const EXPECTED: &str = "0 lost, no message missed";
/// What the bootstrap needs for it: a session says little before it is idle.
pub const BOOTSTRAP: &str = "handoff: {after_bytes: 1024}\n";

const SESSIONS: usize = 200;
const TOPIC: &str = "demo-outlive";
/// For all of them together, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Subscribes, ends the agent without a word, starts it again, and publishes
/// before, between and after: what was seen, and the proof that the kernel had the
/// sessions.
///
/// # Errors
/// When a session is lost or misses a message.
pub fn sessions(stage: &Stage<'_>, gateway: &mut Gateway<'_>) -> Result<(String, String)> {
    let lab = stage.lab;
    let authority = stage.authority.certificate();
    let by_name = Broker {
        host: mqtt_name(lab),
        port: lab.port(8883),
        authority: Some(&authority),
    };
    let handed_off = |gateway: &Gateway<'_>| gateway.closed("passthrough", "handed_off");
    let before = handed_off(gateway)?;
    let mut sessions = (0..SESSIONS)
        .map(|number| Subscriber::begin(lab, &by_name, &format!("demo-session-{number}"), TOPIC))
        .collect::<Result<Vec<_>>>()?;
    for session in &mut sessions {
        session.acknowledged()?;
    }
    let taken = wait::until("the kernel to take the sessions over", PATIENCE, || {
        let taken = handed_off(gateway)? - before;
        if taken < SESSIONS as u64 {
            bail!("{taken} of {SESSIONS} so far");
        }
        Ok(Some(taken))
    })?;
    // Published without TLS: the kernel forwards that from the first packet.
    let vip = lab.vip().to_string();
    let plain = Broker {
        host: &vip,
        port: lab.port(1883),
        authority: None,
    };
    mqtt::publish(lab, &plain, TOPIC, "with the agent")?;
    gateway.kill();
    mqtt::publish(lab, &plain, TOPIC, "without it").context("publish without the agent")?;
    arrived(&mut sessions, 2)?;
    gateway.start().context("start the agent again")?;
    mqtt::publish(lab, &plain, TOPIC, "with the next one")?;
    arrived(&mut sessions, 3)?;
    let lost = sessions
        .iter_mut()
        .filter_map(|session| (!session.is_unbroken()).then_some(()))
        .count();
    if lost > 0 {
        bail!("{lost} of {SESSIONS} sessions lost");
    }
    Ok((
        format!("{lost} lost, {} messages", 3 * SESSIONS),
        format!("{taken} handed off before the end"),
    ))
}

fn arrived(sessions: &mut [Subscriber], count: usize) -> Result<()> {
    for session in sessions {
        session.wait_for(count)?;
    }
    Ok(())
}
