//! The twelve bytes in front of every yamux frame.
//!
//! Pure. What a frame means is decided in `mux`.

/// Bytes of a header.
pub const HEADER: usize = 12;

/// Opens a stream.
pub const SYN: u16 = 1;
/// Acknowledges a stream, or answers a ping.
pub const ACK: u16 = 2;
/// The sender writes no more.
pub const FIN: u16 = 4;
/// The stream is over in both directions.
pub const RST: u16 = 8;

/// GoAway without a fault: open no more streams.
pub const GO_AWAY_NORMAL: u32 = 0;
/// GoAway because of a broken protocol.
pub const GO_AWAY_PROTOCOL: u32 = 1;
/// GoAway because of a fault of the sender.
pub const GO_AWAY_INTERNAL: u32 = 2;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `length` bytes of a stream follow.
    Data,
    /// `length` more bytes may be sent on the stream.
    WindowUpdate,
    /// `length` is the number to send back.
    Ping,
    /// `length` is the reason.
    GoAway,
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// `SYN`, `ACK`, `FIN`, `RST`; other bits mean nothing.
    pub flags: u16,
    /// The stream it belongs to; 0 for the session.
    pub stream: u32,
    /// Depends on the kind.
    pub length: u32,
}

impl Header {
    /// The header as it travels.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[1] = match self.kind {
            Kind::Data => 0,
            Kind::WindowUpdate => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        };
        bytes[2..4].copy_from_slice(&self.flags.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.stream.to_be_bytes());
        bytes[8..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Reads a header, or says what is wrong with it.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Header, &'static str> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = *bytes;
        if version != 0 {
            return Err("wrong yamux version");
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::WindowUpdate,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            _ => return Err("unknown yamux frame type"),
        };
        Ok(Header {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_travels_in_network_order() {
        let header = Header { kind: Kind::WindowUpdate, flags: SYN | FIN, stream: 0x0102_0304, length: 0xA0B0_C0D0 };
        let bytes = header.encode();
        assert_eq!(bytes, [0, 1, 0, 5, 1, 2, 3, 4, 0xA0, 0xB0, 0xC0, 0xD0]);
        assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn another_version_or_type_is_refused() {
        let good = Header { kind: Kind::Ping, flags: SYN, stream: 0, length: 7 }.encode();
        let mut version = good;
        version[0] = 1;
        let mut kind = good;
        kind[1] = 4;
        assert_eq!(Header::decode(&version), Err("wrong yamux version"));
        assert_eq!(Header::decode(&kind), Err("unknown yamux frame type"));
    }
}
