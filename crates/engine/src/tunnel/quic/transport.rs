//! The transport parameters of a tunnel, the same at both ends.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};

use crate::snapshot::{self, Congestion};
use crate::tunnel::endpoint::path::{USUAL, discovery};

/// Streams of the peer that may be open at once.
pub const STREAMS: VarInt = VarInt::from_u32(1024);
/// What one stream may bring before it is read. `quinn` lets it not grow, so it is what a long path needs for
/// 10 MB/s at 50 ms, and twice what streams begin with over WebSocket; what grows with use is the connection's.
pub(super) const STREAM_WINDOW: u32 = 512 << 10;
/// What all streams together may bring before it is read: at first, and at most. 64 streams that nobody reads fill it,
/// as many as over WebSocket.
pub const RECEIVE_WINDOW: (u64, u64) = (8 << 20, 32 << 20);
/// What may wait to be sent and acknowledged: at first, and at most.
pub(super) const SEND_WINDOW: (u64, u64) = (1 << 20, 16 << 20);
/// Bytes of datagrams that may wait to be sent, and as many to be told whose they are, which is done at once.
const DATAGRAMS: usize = 256 << 10;
/// An agent that could use a WebSocket instead asks so often whether its packets arrive.
const WATCHFUL: Duration = Duration::from_secs(5);

/// The parameters for sessions that are watched like `tunnel` says. `asks`: the other end's silence is to be noticed
/// within seconds, because there is another way.
pub fn transport(tunnel: &snapshot::Tunnel, asks: bool) -> TransportConfig {
    let every = if asks { tunnel.ping_interval.min(WATCHFUL) } else { tunnel.ping_interval };
    // Longer than 62 bits of milliseconds is for ever.
    let idle = IdleTimeout::try_from(tunnel.ping_interval + tunnel.ping_timeout).ok();
    let congestion: Arc<dyn ControllerFactory + Send + Sync> = match tunnel.congestion {
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Bbr => Arc::new(BbrConfig::default()),
    };
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(every))
        .max_idle_timeout(idle)
        .max_concurrent_bidi_streams(STREAMS)
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW.0 as u32))
        .send_window(SEND_WINDOW.0)
        .congestion_controller_factory(congestion)
        .mtu_discovery_config(Some(discovery(USUAL)))
        .datagram_receive_buffer_size(Some(DATAGRAMS))
        .datagram_send_buffer_size(DATAGRAMS);
    config
}
