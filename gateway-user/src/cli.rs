// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Command line: subcommands and their options.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    model::Transport,
    status::{
        flows::DEFAULT_LIMIT,
        matching::{AddressMatch, NameMatch},
    },
    telemetry::log::LogFormat,
};

/// eBPF/XDP-accelerated L4 ingress and SNI router.
#[derive(Debug, Parser)]
#[command(version, about, disable_help_subcommand = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sluice run --config config/examples/tcp-echo.yaml
  sluice run --bootstrap config/gateway.yaml
  sluice check config/examples
  sluice explain config/examples/sni-passthrough.yaml --port 8443 --sni a.example.com
  sluice status
  sluice flows --service 1883
  sluice trace --from 192.0.2.7:40000 --to 10.97.0.1:1883
  sluice detach

Exit status: 0 success, 1 the work failed or errors were found, 2 wrong usage.";

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM
    Run(Run),
    /// Report what is wrong with a configuration, one finding a line
    Check(Check),
    /// Say which rule and cluster would serve a connection or request
    Explain(Explain),
    /// Show what a running agent does
    Status(Status),
    /// List the flows a running agent's kernel side tracks
    Flows(Flows),
    /// Say what would happen to a packet, from the kernel's own tables
    Trace(Trace),
    /// Remove programs, maps and VIP routes; established forwarded flows end
    Detach(Detach),
}

/// `sluice run`.
#[derive(Debug, Args)]
#[command(after_help = "\
SIGTERM and SIGINT drain and exit; flows forwarded in the kernel go on. SIGHUP
re-reads the configuration. Without root or kernel support, --datapath auto
serves the same configuration by proxying and says so.")]
pub struct Run {
    /// The agent's own settings; without it every default applies
    #[arg(long, value_name = "FILE")]
    pub bootstrap: Option<PathBuf>,
    /// A file or directory of resources, in addition to the bootstrap's sources
    #[arg(long, value_name = "PATH")]
    pub config: Vec<PathBuf>,
    /// Where connections are forwarded
    #[arg(long, value_enum, default_value_t = DatapathMode::Auto)]
    pub datapath: DatapathMode,
    /// Address of the admin endpoints [default: 127.0.0.1:15000]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// How the log is written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Where connections are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DatapathMode {
    /// eBPF where it is possible, else userspace with a warning
    Auto,
    /// eBPF, or fail
    Ebpf,
    /// Proxy everything
    Userspace,
}

/// What carries a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// Connections
    Tcp,
    /// Datagrams
    Udp,
}

impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// One JSON document
    Json,
}

/// `sluice check`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 clean or warnings only, 1 errors, 2 wrong usage.")]
pub struct Check {
    /// Files or directories of resources
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The agent's own settings, for the labels that selectors match
    #[arg(long, value_name = "FILE")]
    pub bootstrap: Option<PathBuf>,
    /// How findings are written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `sluice explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice explain config/examples/demo --port 443 --sni a.demo.test --host a.demo.test --path /api
  sluice explain config/examples/demo --port 1883")]
pub struct Explain {
    /// Files or directories of resources
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The agent's own settings
    #[arg(long, value_name = "FILE")]
    pub bootstrap: Option<PathBuf>,
    /// Port the client connects to
    #[arg(long)]
    pub port: u16,
    /// What the client uses
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    pub protocol: Protocol,
    /// Address the client connects to
    #[arg(long)]
    pub address: Option<IpAddr>,
    /// Server name in the ClientHello
    #[arg(long)]
    pub sni: Option<String>,
    /// Protocol offered in ALPN; may be repeated
    #[arg(long)]
    pub alpn: Vec<String>,
    /// Host of the request
    #[arg(long)]
    pub host: Option<String>,
    /// Method of the request
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// Path of the request
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Header of the request, as NAME=VALUE; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, String)>,
    /// Address the client connects from
    #[arg(long)]
    pub source: Option<IpAddr>,
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `sluice status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Address of the agent's admin endpoints
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,
    /// How the report is written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `sluice flows`.
#[derive(Debug, Args)]
#[command(after_help = "\
An ADDRESS is 10.0.0.1, 10.0.0.0/8, 10.0.0.1:80, [fd00::1]:80 or a port alone.
The last line counts all flows that match, listed or not.

Examples:
  sluice flows --service 10.97.0.1:1883
  sluice flows --client 192.0.2.0/24 --state established --limit 0
  sluice flows --sni '*.example.com' --kind handoff")]
pub struct Flows {
    /// Only of this service, as clients connect to it
    #[arg(long, value_name = "ADDRESS")]
    pub service: Option<AddressMatch>,
    /// Only from this client
    #[arg(long, value_name = "ADDRESS")]
    pub client: Option<AddressMatch>,
    /// Only to this backend
    #[arg(long, value_name = "ADDRESS")]
    pub backend: Option<AddressMatch>,
    /// Only in this state, such as established, fin-wait or closing
    #[arg(long, value_parser = parse_state)]
    pub state: Option<String>,
    /// Only connections with this server name; *.example.com is all below it
    #[arg(long, value_name = "NAME")]
    pub sni: Option<NameMatch>,
    /// Only flows of this kind
    #[arg(long, value_parser = ["dnat", "snat", "dsr", "handoff"])]
    pub kind: Option<String>,
    /// List so many at most; 0 only counts
    #[arg(long, default_value_t = DEFAULT_LIMIT)]
    pub limit: usize,
    /// Address of the agent's admin endpoints
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,
    /// How the list is written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `sluice trace`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --watch, walks the way of a connection's first packet from --from to
--to on the live maps and routing tables, one finding a line; what is missing is
marked with an exclamation mark. Nothing is sent or changed. Exit status: 0 it
would be delivered, 1 it would be dropped, refused or is not the gateway's, 2
wrong usage.

With --watch, prints what becomes of packets until it is interrupted: first
packets of flows, and what is dropped. --from and --to take ADDRESS,
ADDRESS/BITS, ADDRESS:PORT or PORT then, and mean packets as they come in.

Needs root and the network namespace of the agent, but no running agent:
forwarding goes on without one.

Examples:
  sluice trace --from 192.0.2.7:40000 --to 10.97.0.1:1883
  sluice trace --from [2001:db8::7]:40000 --to [fd97::1]:53 --proto udp
  sluice trace --watch --from 192.0.2.0/24 --drops-only")]
pub struct Trace {
    /// Source of the packet
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "watch")]
    pub from: Option<AddressMatch>,
    /// Destination of the packet
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "watch")]
    pub to: Option<AddressMatch>,
    /// What the client uses
    #[arg(long, value_enum, default_value_t = Protocol::Tcp, conflicts_with = "watch")]
    pub proto: Protocol,
    /// The interface it comes in by [default: the one that leads back to its
    /// source]
    #[arg(long, value_name = "NAME", conflicts_with = "watch")]
    pub interface: Option<String>,
    /// Print what becomes of packets as they pass
    #[arg(long)]
    pub watch: bool,
    /// Only packets that are dropped
    #[arg(long, requires = "watch")]
    pub drops_only: bool,
    /// Later packets of flows too, not only first ones
    #[arg(long, requires = "watch", conflicts_with = "drops_only")]
    pub all: bool,
    /// Packets a second that a processor tells of at most; others are counted
    #[arg(long, value_name = "N", default_value_t = 1_000, requires = "watch",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// End after so many lines; 0 never
    #[arg(long, value_name = "N", default_value_t = 0, requires = "watch")]
    pub limit: u64,
    /// The settings the agent ran with: bpffs and admin matter here
    #[arg(long, value_name = "FILE")]
    pub bootstrap: Option<PathBuf>,
    /// How the findings are written; with --watch JSON is an object a line
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `sluice detach`.
#[derive(Debug, Args)]
pub struct Detach {
    /// The settings the agent ran with: bpffs and vips matter here
    #[arg(long, value_name = "FILE")]
    pub bootstrap: Option<PathBuf>,
}

fn parse_state(text: &str) -> Result<String, String> {
    let is_word = |text: &str| {
        let mut letters = text.bytes();
        !text.is_empty() && letters.all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    };
    if is_word(text) {
        Ok(text.to_owned())
    } else {
        Err("expected a state, such as established".to_owned())
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }
}
