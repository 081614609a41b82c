use std::collections::VecDeque;
use std::io::{Read, Write};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{CloseFrame, Role, WebSocket};
use tungstenite::{Bytes, Message};

use super::*;

/// The other end of a connection: what it is to read, what it wrote.
#[derive(Default)]
struct Wire {
    input: VecDeque<u8>,
    output: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, target: &mut [u8]) -> std::io::Result<usize> {
        match self.input.read(target) {
            Ok(0) => Err(std::io::ErrorKind::WouldBlock.into()),
            other => other,
        }
    }
}

impl Write for Wire {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut self.output, data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The reference implementation on the other side of `side`.
fn reference(side: Side) -> WebSocket<Wire> {
    let role = if side == Side::Client { Role::Server } else { Role::Client };
    WebSocket::from_raw_socket(Wire::default(), role, None)
}

/// Everything `bytes` hold, read in pieces of `cut`.
fn decode(side: Side, bytes: &[u8], cut: usize) -> Result<(Vec<u8>, Vec<Event>), &'static str> {
    let mut decoder = Decoder::new(side);
    let (mut payload, mut others) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        let mut piece = piece.to_vec();
        let mut rest = &mut piece[..];
        while !rest.is_empty() {
            let (used, event) = decoder.next(rest)?;
            match event {
                Some(Event::Data(range)) => payload.extend_from_slice(&rest[range]),
                other => others.extend(other),
            }
            rest = &mut rest[used..];
        }
    }
    Ok((payload, others))
}

fn message(side: Side, data: &[u8]) -> Buffer {
    let mut buffer = Buffer::new();
    buffer.extend(&[0; RESERVE]);
    buffer.extend(data);
    seal(&mut buffer, side);
    buffer
}

#[test]
fn the_reference_reads_what_we_write() {
    for side in [Side::Client, Side::Server] {
        for length in [1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let data: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
            let mut other = reference(side);
            other.get_mut().input.extend(message(side, &data).chunk());
            assert_eq!(other.read().expect("read"), Message::Binary(data.into()));
        }
        let mut other = reference(side);
        let mut out = Buffer::new();
        let mut payload = Payload::EMPTY;
        payload.push(b"are you there");
        pong(&payload, side, &mut out);
        close(Some(1001), side, &mut out);
        other.get_mut().input.extend(out.chunk());
        assert_eq!(other.read().expect("read"), Message::Pong(Bytes::from_static(b"are you there")));
        let Message::Close(Some(CloseFrame { code, .. })) = other.read().expect("read") else { panic!("no close") };
        assert_eq!(u16::from(code), 1001);
    }
}

#[test]
fn what_the_reference_writes_is_read_wherever_it_is_cut() {
    for side in [Side::Client, Side::Server] {
        let mut other = reference(side);
        let mut expected = Vec::new();
        for length in [0usize, 1, 125, 126, 300, 70_000] {
            let data: Vec<u8> = (0..length).map(|i| (i * 13) as u8).collect();
            expected.extend_from_slice(&data);
            other.send(Message::Binary(data.into())).expect("send");
            other.send(Message::Ping(Bytes::from_static(b"ping"))).expect("send");
        }
        // A message in three fragments, with a ping between them.
        let fragment = |code, last| Message::Frame(Frame::message(b"part".to_vec(), OpCode::Data(code), last));
        other.send(fragment(Data::Binary, false)).expect("send");
        other.send(Message::Ping(Bytes::new())).expect("send");
        other.send(fragment(Data::Continue, false)).expect("send");
        other.send(fragment(Data::Continue, true)).expect("send");
        expected.extend_from_slice(b"partpartpart");
        other.close(Some(CloseFrame { code: 1012.into(), reason: "back \r\nsoon".into() })).expect("close");
        let _ = other.flush();
        let bytes = &other.get_ref().output;
        for cut in [1, 2, 3, 7, 13, 1000, usize::MAX] {
            let (payload, others) = decode(side, bytes, cut).expect("decode");
            assert!(payload == expected);
            assert_eq!(others.len(), 8);
            assert_eq!(others[7], Event::Close(Close { code: Some(1012), reason: "back soon".into() }));
        }
    }
}

#[test]
fn what_the_rfc_forbids_is_refused() {
    let cases: [(Side, &[u8], &str); 13] = [
        (Side::Client, &[0xC2, 0], "a websocket extension that was not negotiated"),
        (Side::Client, &[0x81, 0], "a websocket text message"),
        (Side::Client, &[0x80, 0], "a websocket continuation of nothing"),
        (Side::Client, &[0x02, 0, 0x82, 0], "a websocket message inside another"),
        (Side::Client, &[0x83, 0], "an unknown websocket opcode"),
        (Side::Client, &[0x8B, 0], "an unknown websocket opcode"),
        (Side::Client, &[0x09, 0], "a fragmented websocket control frame"),
        (Side::Client, &[0x89, 126], "a long websocket control frame"),
        (Side::Client, &[0x88, 1, 3], "a websocket close frame of one byte"),
        (Side::Client, &[0x82, 0x81], "a websocket frame with a mask"),
        (Side::Server, &[0x82, 0x01], "a websocket frame without a mask"),
        (Side::Client, &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], "a websocket frame of 2^63 bytes or more"),
        (Side::Server, &[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], "a websocket frame of 2^63 bytes or more"),
    ];
    for (side, bytes, reason) in cases {
        for cut in [1, usize::MAX] {
            assert_eq!(decode(side, bytes, cut), Err(reason));
        }
    }
}

#[test]
fn a_million_empty_fragments_are_nothing() {
    let mut bytes = vec![0x02, 0];
    bytes.extend([0x00, 0].repeat(1_000_000));
    bytes.extend([0x80, 1, b'x']);
    assert_eq!(decode(Side::Client, &bytes, 65_536), Ok((b"x".to_vec(), vec![])));
}

#[test]
fn the_handshake_keys_are_those_of_the_rfc() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let key = new_key();
    assert_eq!((key.len(), STANDARD.decode(&key).map(|bytes| bytes.len())), (24, Ok(16)));
    assert_ne!(key, new_key());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn masking_twice_is_nothing(data in prop::collection::vec(any::<u8>(), 0..100), mask: [u8; 4]) {
        let mut masked = data.clone();
        xor(&mut masked, mask);
        prop_assert!(masked.iter().enumerate().all(|(i, byte)| *byte == data[i] ^ mask[i % 4]));
        xor(&mut masked, mask);
        prop_assert_eq!(masked, data);
    }

    #[test]
    fn no_cut_changes_what_is_read(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1..20usize) {
        prop_assert_eq!(decode(Side::Server, &bytes, cut).is_ok(), decode(Side::Server, &bytes, usize::MAX).is_ok());
        prop_assert_eq!(decode(Side::Client, &bytes, cut).ok(), decode(Side::Client, &bytes, usize::MAX).ok());
    }
}

/// Two channels, and nothing between them but a narrow pipe.
fn channels(half_close: bool) -> (Channel, Channel) {
    let (client, server) = tokio::io::duplex(10_000);
    (
        Channel::new(Box::new(client), Buffer::new(), Side::Client, half_close),
        Channel::new(Box::new(server), Buffer::new(), Side::Server, half_close),
    )
}

#[tokio::test]
async fn a_channel_carries_bytes_and_ends_its_directions_alone_where_agreed() {
    let (client, server) = channels(true);
    let data: Vec<u8> = (0..1_000_000u32).map(|i| (i >> 3) as u8).collect();
    let (mut server_read, mut server_write) = tokio::io::split(server);
    let (mut read, mut write) = tokio::io::split(client);
    let upload = async {
        write.write_all(&data).await.expect("write");
        write.shutdown().await.expect("shutdown");
        assert!(write.write(b"x").await.is_err());
    };
    let download = async {
        let mut got = Vec::new();
        server_read.read_to_end(&mut got).await.expect("read");
        // Their direction has ended, ours has not.
        server_write.write_all(&got).await.expect("write");
        server_write.shutdown().await.expect("shutdown");
    };
    let mut got = Vec::new();
    let (_, _, outcome) = tokio::join!(upload, download, read.read_to_end(&mut got));
    outcome.expect("read");
    assert!(got == data);
}

#[tokio::test]
async fn without_agreement_a_close_ends_both_directions() {
    let (mut client, mut server) = channels(false);
    client.write_all(b"bye").await.expect("write");
    client.shutdown().await.expect("shutdown");
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.expect("read");
    assert_eq!(got, b"bye");
    assert_eq!(server.write(b"x").await.expect_err("closed").kind(), std::io::ErrorKind::BrokenPipe);
    // The answer to the close frame ends the other direction, too.
    server.flush().await.expect("flush");
    got.clear();
    client.read_to_end(&mut got).await.expect("read");
    assert!(got.is_empty());
}

#[tokio::test]
async fn a_connection_lost_without_a_close_frame_is_a_reset() {
    let (client, mut server) = channels(true);
    drop(client);
    assert_eq!(server.read(&mut [0]).await.expect_err("lost").kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_ping_is_answered_while_only_reading() {
    let (raw, server): (DuplexStream, DuplexStream) = tokio::io::duplex(1000);
    let mut channel = Channel::new(Box::new(server), Buffer::new(), Side::Server, false);
    let (mut read, mut write) = tokio::io::split(raw);
    let mut other = reference(Side::Server);
    other.send(Message::Ping(Bytes::from_static(b"yo"))).expect("send");
    other.send(Message::Binary(Bytes::from_static(b"data"))).expect("send");
    write.write_all(&other.get_ref().output).await.expect("write");
    let mut got = [0; 4];
    channel.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"data");
    let mut pong = [0; 4];
    read.read_exact(&mut pong).await.expect("read");
    assert_eq!(pong, [0x8A, 2, b'y', b'o']);
}
