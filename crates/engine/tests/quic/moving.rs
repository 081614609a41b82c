//! Agents whose address changes while they are connected: the kernel then gives their datagrams to any worker.

use std::net::UdpSocket;
use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint, VarInt};
use serde_json::json;
use tidegate_engine::tunnel::Session;
use tidegate_engine::tunnel::quic::{Config, UNREAD, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::dialled::{Authority, Brings, ask, counted, endpoint, gate, hello, runtime};
use crate::gate::{Gate, until};

/// An agent that answers every request with its name.
struct Named {
    endpoint: Endpoint,
    connection: Connection,
    session: Session,
}

impl Named {
    async fn connect(authority: &Authority, gate: &Gate, name: &'static str) -> Named {
        let endpoint = endpoint();
        let connection = Brings::nothing(authority).dial(&endpoint, gate.address("agents")).await.unwrap();
        let (head, send, recv) = ask(&connection, &hello(name, "")).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let config = Config { takes_streams: true, datagrams: false, asks: false, unread: UNREAD };
        let (session, driver) = start(connection.clone(), Some((send, recv)), config);
        tokio::spawn(driver);
        let taking = session.clone();
        tokio::spawn(async move {
            while let Some(mut stream) = taking.accept().await {
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while let Ok(byte) = stream.read_u8().await {
                        head.push(byte);
                        if head.ends_with(b"\r\n\r\n") {
                            head.clear();
                            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                            stream.write_all(answer.as_bytes()).await.unwrap();
                        }
                    }
                });
            }
        });
        Named { endpoint, connection, session }
    }
}

async fn get(gate: &Gate, name: &str) -> String {
    let (web, host) = (gate.address("web"), format!("{name}.localhost"));
    let asking = tokio::task::spawn_blocking(move || {
        let mut visitor = crate::gate::Visitor::connect(web);
        visitor.say("/", &[("Host", &host)]);
        let answer = visitor.answer();
        format!("{} {}", answer.status, answer.body)
    });
    tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap().unwrap()
}

#[test]
fn a_tunnel_goes_on_whichever_of_four_workers_its_new_address_leads_to() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({}), json!({"workers": 4}));
    runtime().block_on(async {
        let agents = [Named::connect(&authority, &gate, "one").await, Named::connect(&authority, &gate, "two").await];
        until("both are there", || gate.endpoints().len() == 2);
        for _ in 0..12 {
            for agent in &agents {
                agent.endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            }
            assert_eq!(get(&gate, "one").await, "200 one");
            assert_eq!(get(&gate, "two").await, "200 two");
        }
        assert!(agents.iter().all(|agent| agent.session.end_reason().is_none()));
        // Of 24 new addresses a quarter stays where it was.
        let passed = counted(&gate, "tidegate_quic_datagrams_total{outcome=\"passed_on\"}");
        assert!(passed >= 24.0, "{passed}");
        for direction in ["in", "out"] {
            let count = |what| counted(&gate, &format!("tidegate_quic_udp_{what}_total{{direction=\"{direction}\"}}"));
            // The system may take and give several at once, and never less than one.
            assert!(count("calls") >= 24.0 && count("datagrams") >= count("calls"), "{direction}");
        }
        let told = gate.role.status()["endpoints"][0]["listeners"][0]["address"].as_str().unwrap().to_owned();
        assert_eq!(told, agents[0].endpoint.local_addr().unwrap().to_string());
    });
}

#[test]
fn an_agent_that_moves_to_where_nobody_may_come_from_is_let_go() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({"deny": ["127.0.0.2/32"]}), json!({}));
    runtime().block_on(async {
        let agent = Named::connect(&authority, &gate, "one").await;
        assert_eq!(get(&gate, "one").await, "200 one");
        agent.endpoint.rebind(UdpSocket::bind("127.0.0.2:0").unwrap()).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), agent.connection.closed()).await.unwrap();
        let ConnectionError::ApplicationClosed(close) = ended else { panic!("{ended}") };
        assert_eq!(close.error_code, VarInt::from_u32(6));
        until("it is gone", || gate.endpoints().is_empty());
    });
}
