use crate::error::*;
use crate::io::BoxedIo;
use crate::snapshot::Secret;
use std::time::Duration;
use tokio::net::TcpStream;
pub async fn connect(host: &str, port: u16, _t: Duration) -> Result<TcpStream> {
    match TcpStream::connect((host, port)).await {
        Ok(s) => {
            let _ = s.set_nodelay(true);
            Ok(s)
        }
        Err(e) => Err(Error::undelivered(Code::UpstreamUnreachable, e.to_string())),
    }
}
pub async fn connect_via(_p: &Secret, host: &str, port: u16, t: Duration) -> Result<BoxedIo> {
    Ok(Box::new(connect(host, port, t).await?))
}
