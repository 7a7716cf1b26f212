// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The topology: a client, a gateway node and three backends, with RAII cleanup.

use std::{
    ffi::CString,
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    netns::{NETNS_DIR, Netns, run},
    process::Process,
    wait,
};

/// Namespaces, addresses and a directory, for as long as the value lives.
#[derive(Debug)]
pub struct Lab {
    /// Where clients run.
    pub client: Netns,
    /// The node the agent runs on.
    pub gateway: Netns,
    /// Where servers run.
    pub backends: [Netns; 3],
    dir: PathBuf,
    loopback: bool,
    mounted: bool,
    outlive: bool,
    keep: bool,
}

impl Lab {
    /// Makes a lab whose names carry this process's id.
    ///
    /// # Errors
    ///
    /// Without root, or when the kernel lacks network namespaces or veth.
    pub fn new() -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            sweep_dead_labs();
        }
        Self::named(&format!("sl-{}-{number}", std::process::id()))
    }

    /// Makes a lab with a name of its own, such as the demo's.
    ///
    /// # Errors
    ///
    /// As [`Lab::new`], and when a lab of this name exists.
    pub fn named(name: &str) -> Result<Self> {
        let dir = directory(name);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let netns = |suffix: &str| Netns::create(&format!("{name}-{suffix}"));
        let mut lab = Self {
            client: netns("client")?,
            gateway: netns("gateway")?,
            backends: [netns("backend1")?, netns("backend2")?, netns("backend3")?],
            dir,
            loopback: false,
            mounted: false,
            outlive: false,
            keep: false,
        };
        lab.wire()?;
        lab.mount_bpffs()?;
        Ok(lab)
    }

    /// A lab without namespaces: everything on loopback addresses.
    ///
    /// # Errors
    ///
    /// When the directory for its files cannot be made.
    pub fn loopback() -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("sluice-lab-lo-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self {
            client: Netns::host(),
            gateway: Netns::host(),
            backends: [Netns::host(), Netns::host(), Netns::host()],
            dir,
            loopback: true,
            mounted: false,
            outlive: false,
            keep: false,
        })
    }

    /// Where its logs, certificates and configuration are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it runs without namespaces.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// The address clients connect to.
    pub fn vip(&self) -> Ipv4Addr {
        if self.loopback {
            Ipv4Addr::LOCALHOST
        } else {
            VIP
        }
    }

    /// A port of the VIP. On loopback it is moved up by 10,000: away from the
    /// privileged ones and from services that already run on this machine.
    pub fn port(&self, port: u16) -> u16 {
        if self.loopback { port + 10_000 } else { port }
    }

    /// The address of a backend, 0 to 2.
    pub fn backend_address(&self, index: usize) -> Ipv4Addr {
        let number = u8::try_from(index + 1).unwrap_or(u8::MAX);
        if self.loopback {
            Ipv4Addr::new(127, 99, number, 2)
        } else {
            Ipv4Addr::new(10, 99, number, 2)
        }
    }

    /// The bpffs of this lab.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// Starts a program with its log in the lab's directory; it ends when the
    /// returned value is dropped, or with the calling thread.
    ///
    /// # Errors
    ///
    /// When the program is missing or the log cannot be written.
    pub fn spawn(&self, command: Command, name: &str) -> Result<Process> {
        if self.outlive {
            Process::spawn_detached(command, name, self.dir())
        } else {
            Process::spawn(command, name, self.dir())
        }
    }

    /// Starts programs from now on so that they can outlive this process.
    pub fn outlive(&mut self) {
        self.outlive = true;
    }

    /// Rewrites addresses and ports of a configuration written for namespaces
    /// to those of this lab.
    pub fn localise(&self, yaml: &str) -> String {
        if !self.loopback {
            return yaml.to_owned();
        }
        let mut text = yaml.replace("10.99.", "127.99.");
        text = text.replace(&VIP.to_string(), &self.vip().to_string());
        text.lines()
            .map(|line| match line.split_once("number: ") {
                Some((head, tail)) if tail.contains("# vip port") => {
                    let digits: String = tail.chars().take_while(char::is_ascii_digit).collect();
                    let port = digits.parse().map_or(0, |port| self.port(port));
                    format!("{head}number: {port}{}", &tail[digits.len()..])
                }
                _ => line.to_owned(),
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// [`Lab::client_resolving`] of `names` to the VIP.
    ///
    /// # Errors
    ///
    /// When the hosts file cannot be written.
    pub fn client_with_hosts(&self, program: &str, names: &[&str]) -> Result<Command> {
        let hosts: Vec<_> = names.iter().map(|name| (*name, VIP.into())).collect();
        self.client_resolving(program, &hosts)
    }

    /// A client command that resolves names without a change to the machine's
    /// /etc/hosts: the command sees a hosts file of its own.
    ///
    /// # Errors
    ///
    /// When the hosts file cannot be written.
    pub fn client_resolving(&self, program: &str, hosts: &[(&str, IpAddr)]) -> Result<Command> {
        let mut command = self.client.command(program);
        if self.loopback {
            return Ok(command);
        }
        let mut text = "127.0.0.1 localhost\n".to_owned();
        let mut name = "hosts".to_owned();
        for (host, address) in hosts {
            text.push_str(&format!("{address} {host}\n"));
            name.push_str(&format!(".{host}+{address}"));
        }
        // Named after its contents: calls for other names may run beside this one.
        let file = self.dir.join(name);
        if !file.exists() {
            fs::write(&file, text)?;
        }
        let source = CString::new(file.as_os_str().as_bytes())?;
        // SAFETY: unshare and mount are async-signal-safe system calls; the
        // strings live in the closure.
        unsafe {
            command.pre_exec(move || {
                let none = std::ptr::null();
                let private = libc::MS_REC | libc::MS_PRIVATE;
                if libc::unshare(libc::CLONE_NEWNS) != 0
                    || libc::mount(none, c"/".as_ptr(), none, private, std::ptr::null()) != 0
                    || libc::mount(
                        source.as_ptr(),
                        c"/etc/hosts".as_ptr(),
                        none,
                        libc::MS_BIND,
                        std::ptr::null(),
                    ) != 0
                {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        Ok(command)
    }

    /// Leaves namespaces, mounts and files in place when the value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
        let Self {
            client,
            gateway,
            backends,
            ..
        } = self;
        for netns in [client, gateway].into_iter().chain(backends) {
            netns.keep();
        }
    }

    /// Makes the links. veth pairs are made where they end, so that this
    /// machine's own namespace never sees them; their offloads stay on, because
    /// the kernel programs have to cope with GSO packets.
    fn wire(&self) -> Result<()> {
        let Self {
            client,
            gateway,
            backends,
            ..
        } = self;
        gateway.ip(&format!(
            "link add wire type veth peer name eth0 netns {}",
            client.name()
        ))?;
        gateway.ip("addr add 10.98.0.1/24 dev wire")?;
        gateway.ip("link set wire up")?;
        client.ip("addr add 10.98.0.2/24 dev eth0")?;
        client.ip("link set eth0 up")?;
        client.ip("route add default via 10.98.0.1")?;
        for (index, backend) in backends.iter().enumerate() {
            let number = index + 1;
            gateway.ip(&format!(
                "link add pod{number} type veth peer name eth0 netns {}",
                backend.name()
            ))?;
            gateway.ip(&format!("addr add 10.99.{number}.1/24 dev pod{number}"))?;
            gateway.ip(&format!("link set pod{number} up"))?;
            backend.ip(&format!("addr add 10.99.{number}.2/24 dev eth0"))?;
            backend.ip("link set eth0 up")?;
            backend.ip(&format!("route add default via 10.99.{number}.1"))?;
        }
        // A cluster's node forwards; the FIB look-up of the programs asks.
        gateway.sysctl("net.ipv4.ip_forward", "1")?;
        // The kernel notices a carrier a little after the link is up, and until
        // then marks the routes over it.
        let netns = [client, gateway].into_iter().chain(backends);
        for netns in netns {
            wait::until(&format!("links of {}", netns.name()), LINK_DEADLINE, || {
                let routes = netns.ip("-4 route show table all")?;
                Ok((!routes.contains("linkdown")).then_some(()))
            })?;
        }
        Ok(())
    }

    fn mount_bpffs(&mut self) -> Result<()> {
        let target = self.bpffs();
        fs::create_dir_all(&target)?;
        let path = CString::new(target.as_os_str().as_bytes())?;
        // SAFETY: all three strings are terminated and live across the call.
        let status = unsafe {
            libc::mount(
                c"bpf".as_ptr(),
                path.as_ptr(),
                c"bpf".as_ptr(),
                0,
                std::ptr::null(),
            )
        };
        if status != 0 {
            return Err(std::io::Error::last_os_error())
                .with_context(|| format!("mount a bpffs at {}", target.display()));
        }
        self.mounted = true;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if self.mounted {
            unmount(&self.bpffs());
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("lab: remove {}: {error}", self.dir.display());
        }
    }
}

/// Where a lab of this name has its files.
pub fn directory(name: &str) -> PathBuf {
    Path::new(RUN_DIR).join(format!("sluice-lab-{name}"))
}

/// Removes what a kept or killed lab of this name left: its namespaces, its
/// mount and its directory. Its processes must have ended.
pub fn remove(name: &str) {
    for suffix in ["client", "gateway", "backend1", "backend2", "backend3"] {
        let netns = format!("{name}-{suffix}");
        if Path::new(NETNS_DIR).join(&netns).exists()
            && let Err(error) = run(Command::new("ip").args(["netns", "del", &netns]))
        {
            eprintln!("lab: {error:#}");
        }
    }
    let dir = directory(name);
    if dir.exists() {
        unmount(&dir.join("bpf"));
        if let Err(error) = fs::remove_dir_all(&dir) {
            eprintln!("lab: remove {}: {error}", dir.display());
        }
    }
}

/// Removes the labs of test runs that were killed.
fn sweep_dead_labs() {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else {
        return;
    };
    let mut dead: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|file| {
            let rest = file.strip_prefix("sl-")?;
            let mut parts = rest.split('-');
            let (pid, number) = (parts.next()?, parts.next()?);
            let gone = pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
            gone.then(|| format!("sl-{pid}-{number}"))
        })
        .collect();
    dead.sort();
    dead.dedup();
    for name in dead {
        remove(&name);
    }
}

fn unmount(target: &Path) {
    let Ok(path) = CString::new(target.as_os_str().as_bytes()) else {
        return;
    };
    // SAFETY: the path is terminated and lives across the call.
    unsafe {
        libc::umount2(path.as_ptr(), libc::MNT_DETACH);
    }
}

/// The address the gateway serves in a lab with namespaces.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);
/// The client in a lab with namespaces.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);

const LINK_DEADLINE: Duration = Duration::from_secs(5);
const RUN_DIR: &str = "/run";
static NEXT: AtomicU32 = AtomicU32::new(0);
