//! The last word on a connection that is not served, so that it arrives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Code, Error};
use crate::io::{BoxedIo, Buffer};
use crate::message::Version;
use crate::proxy::access::{Answered, Record};
use crate::proxy::http1::Http1;
use crate::proxy::shared::Proxy;
use crate::room::Full;
use crate::timer::Timer;

/// Refusals in words that may be under way at once, in the whole process; beyond it connections are reset.
const IN_WORDS: usize = 64;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Refuses a connection for which there is no room: in words where plain HTTP is spoken, else with a reset.
pub fn for_want_of_room(
    proxy: &Arc<Proxy>,
    worker: usize,
    listener: &Arc<str>,
    mut stream: BoxedIo,
    from: SocketAddr,
    (full, speaks_http): (Full, bool),
) {
    let error = Error::undelivered(Code::Overload, full.why());
    let mut record = Record::new(proxy.next_request(), from, listener.clone(), Answered::Gateway);
    let in_words = speaks_http && UNDER_WAY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
    if in_words {
        let answer = proxy.table.load().answer(&error, record.id, false);
        record.status = answer.status;
        record.bytes_out = answer.body.len() as u64;
        let last = answer.to_http1(Version::Http11, false, false);
        proxy.drain.spawn_on(proxy.runtime(worker), async move {
            let _under_way = UnderWay;
            part(stream, &last).await;
        });
    } else {
        stream.reset();
    }
    record.error = Some(error);
    proxy.finish(worker, &record);
}

fn one_more(under_way: usize) -> Option<usize> {
    (under_way < IN_WORDS).then_some(under_way + 1)
}

struct UnderWay;

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says a last word on a connection and lets it end.
pub async fn part(io: BoxedIo, last: &[u8]) {
    let mut connection = Http1::new(io, Buffer::new());
    connection.send_raw(last);
    connection.part(&mut Timer::new()).await;
}
