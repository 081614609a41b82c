//! Something between two UDP sockets that can lose every packet, or send from another address.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The largest datagram.
const MOST: usize = 65_536;

/// Passes on until it is dropped.
pub(crate) struct Relay {
    front: Arc<UdpSocket>,
    to: SocketAddr,
    cut: Arc<AtomicBool>,
    client: Arc<Mutex<Option<SocketAddr>>>,
    tasks: Mutex<[JoinHandle<()>; 2]>,
}

fn bind() -> Arc<UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    socket.set_nonblocking(true).expect("nonblocking");
    Arc::new(UdpSocket::from_std(socket).expect("a socket"))
}

impl Relay {
    pub(crate) fn to(to: SocketAddr) -> Relay {
        let (front, cut, client) = (bind(), Arc::default(), Arc::default());
        let tasks = Mutex::new(run(&front, to, &cut, &client));
        Relay { front, to, cut, client, tasks }
    }

    /// Where the client is to send.
    pub(crate) fn address(&self) -> SocketAddr {
        self.front.local_addr().expect("address")
    }

    /// From now on every packet is lost, or none.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    /// Sends to the server from another socket; what comes to the old one is lost.
    pub(crate) fn rebind(&self) {
        let mut tasks = self.tasks.lock().expect("lock");
        tasks.iter().for_each(JoinHandle::abort);
        *tasks = run(&self.front, self.to, &self.cut, &self.client);
    }
}

fn run(
    front: &Arc<UdpSocket>,
    to: SocketAddr,
    cut: &Arc<AtomicBool>,
    client: &Arc<Mutex<Option<SocketAddr>>>,
) -> [JoinHandle<()>; 2] {
    let back = bind();
    let (front, cut, client) = (front.clone(), cut.clone(), client.clone());
    let there = tokio::spawn({
        let (front, back, cut, client) = (front.clone(), back.clone(), cut.clone(), client.clone());
        async move {
            let mut packet = vec![0; MOST];
            while let Ok((n, from)) = front.recv_from(&mut packet).await {
                *client.lock().expect("lock") = Some(from);
                if !cut.load(Ordering::Relaxed) {
                    back.send_to(&packet[..n], to).await.expect("send");
                }
            }
        }
    });
    let back = tokio::spawn(async move {
        let mut packet = vec![0; MOST];
        while let Ok((n, _)) = back.recv_from(&mut packet).await {
            let client = *client.lock().expect("lock");
            if let (Some(client), false) = (client, cut.load(Ordering::Relaxed)) {
                front.send_to(&packet[..n], client).await.expect("send");
            }
        }
    });
    [there, back]
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.lock().expect("lock").iter().for_each(JoinHandle::abort);
    }
}
