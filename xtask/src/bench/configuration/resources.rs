// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Many SNI routes and forwarded services, in as many files as asked for. Each
//! has a ServiceEntry of its own, as services in a cluster have.

use std::fmt::Write as _;

/// The resources, and where the two that change lead now.
pub struct Resources {
    routes: usize,
    services: usize,
    files: usize,
    /// The backend, 0 or 1, of the route and of the service that change.
    backends: [usize; 2],
}

impl Resources {
    /// All at backend 1.
    pub fn new(routes: usize, services: usize, files: usize) -> Self {
        Self {
            routes,
            services,
            files,
            backends: [0; 2],
        }
    }

    /// Every file: name and contents.
    pub fn all(&self) -> Vec<(String, String)> {
        (0..self.files).map(|file| self.file(file)).collect()
    }

    /// Leads the SNI route to a backend; the file that says so.
    pub fn move_route(&mut self, backend: usize) -> (String, String) {
        self.backends[0] = backend;
        self.file(CHANGED_ROUTE / self.routes.div_ceil(self.files))
    }

    /// Leads the service to a backend; the file that says so.
    pub fn move_service(&mut self, backend: usize) -> (String, String) {
        self.backends[1] = backend;
        self.file(self.changed_service() / self.services.div_ceil(self.files))
    }

    /// The service that changes: in the middle.
    pub fn changed_service(&self) -> usize {
        self.services / 2
    }

    fn file(&self, number: usize) -> (String, String) {
        let share = |all: usize| {
            let each = all.div_ceil(self.files);
            (number * each).min(all)..((number + 1) * each).min(all)
        };
        let mut yaml = String::new();
        if number == 0 {
            yaml.push_str(SITES);
        }
        for route in share(self.routes) {
            let moved = route == CHANGED_ROUTE && self.backends[0] == 1;
            push_route(&mut yaml, route, moved);
        }
        let services = share(self.services);
        yaml.push_str(&format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Gateway\n\
             metadata: {{name: services-{number}}}\n\
             spec:\n  selector: {{istio: ingressgateway}}\n  servers:\n"
        ));
        for service in services.clone() {
            let port = service_port(service);
            let _ = writeln!(
                yaml,
                "  - {{port: {{number: {port}, name: tcp-{port}, protocol: TCP}}, hosts: [\"*\"]}}"
            );
        }
        for service in services {
            let endpoints = if service == self.changed_service() {
                let address = BACKENDS[self.backends[1]];
                ECHO_PORTS.map(|port| (address, port))
            } else {
                // Nobody listens there; nobody asks.
                let low = SERVICE_PORTS + service as u16;
                [(ABSENT, low), (ABSENT, low + SERVICE_SPAN)]
            };
            push_service(&mut yaml, number, service, endpoints);
        }
        (format!("part-{number:03}.yaml"), yaml)
    }
}

/// Name that clients ask for.
pub fn site_host(route: usize) -> String {
    format!("site-{route}.example.com")
}

/// Port of the VIP.
pub fn service_port(service: usize) -> u16 {
    SERVICE_PORTS + service as u16
}

fn push_route(yaml: &mut String, route: usize, moved: bool) {
    let host = site_host(route);
    let to = if moved {
        "moved".to_owned()
    } else {
        format!("site-{route}")
    };
    yaml.push_str(&format!(
        "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: site-{route}}}
spec:
  hosts: [{host}]
  gateways: [sites]
  tls:
  - match: [{{port: {SNI_PORT}, sniHosts: [{host}]}}]
    route: [{{destination: {{host: {to}.internal}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: site-{route}}}
spec:
  hosts: [site-{route}.internal]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: {SNI_PORT}, name: tls, protocol: TLS}}
  endpoints:
  - {{address: {address}, ports: {{tls: {port}}}}}
",
        address = BACKENDS[0],
        port = ECHO_PORTS[0],
    ));
}

fn push_service(yaml: &mut String, gateway: usize, service: usize, endpoints: [(&str, u16); 2]) {
    let listen = service_port(service);
    let [(first, first_port), (second, second_port)] = endpoints;
    yaml.push_str(&format!(
        "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: service-{service}}}
spec:
  hosts: [\"*\"]
  gateways: [services-{gateway}]
  tcp:
  - match: [{{port: {listen}}}]
    route: [{{destination: {{host: service-{service}.internal}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: service-{service}}}
spec:
  hosts: [service-{service}.internal]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: 9000, name: tcp, protocol: TCP}}
  endpoints:
  - {{address: {first}, ports: {{tcp: {first_port}}}}}
  - {{address: {second}, ports: {{tcp: {second_port}}}}}
"
    ));
}

/// The listener of all SNI routes, and where the route that changes goes to.
const SITES: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: sites}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8443, name: tls, protocol: TLS}
    hosts: [\"*.example.com\"]
    tls: {mode: PASSTHROUGH}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: moved}
spec:
  hosts: [moved.internal]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 8443, name: tls, protocol: TLS}
  endpoints:
  - {address: 10.99.2.2, ports: {tls: 9001}}
";

/// Port of the VIP for all SNI routes.
pub const SNI_PORT: u16 = 8443;
/// The route that changes.
pub const CHANGED_ROUTE: usize = 77;
/// Ports of the servers that say who they are.
pub const ECHO_PORTS: [u16; 2] = [9001, 9002];
/// The two backends that changes go back and forth between.
const BACKENDS: [&str; 2] = ["10.99.1.2", "10.99.2.2"];
/// The third one.
const ABSENT: &str = "10.99.3.2";
const SERVICE_PORTS: u16 = 20_000;
const SERVICE_SPAN: u16 = 10_000;

#[cfg(test)]
mod tests {
    use super::Resources;

    #[test]
    fn files_hold_all_resources_and_a_change_shows_in_one() {
        for files in [1, 7] {
            let mut resources = Resources::new(100, 20, files);
            let before = resources.all();
            assert_eq!(before.len(), files);
            let text: String = before.iter().map(|(_, yaml)| yaml.as_str()).collect();
            assert_eq!(text.matches("kind: VirtualService").count(), 120);
            assert_eq!(text.matches("kind: ServiceEntry").count(), 121);
            for changed in [resources.move_route(1), resources.move_service(1)] {
                assert!(!before.contains(&changed));
            }
            let differ = before
                .iter()
                .zip(resources.all())
                .filter(|(one, other)| *one != other)
                .count();
            assert_eq!(differ, if files == 1 { 1 } else { 2 });
        }
    }
}
