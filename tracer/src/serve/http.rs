//! The answers to those who fetch.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::Shown;
use crate::sink::metrics::{Dialect, text};

/// More at a time are not answered until others have gone.
const CONNECTIONS: usize = 32;
/// Who has not said what it wants by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that any connection lives.
const LIFE: Duration = Duration::from_secs(300);

/// A thread that answers, for as long as the program runs.
pub(super) struct Server {
    address: SocketAddr,
}

impl Server {
    pub(super) fn start(address: SocketAddr, shown: Shown) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen at {address}; is something else there?"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context("cannot start the server")?;
        thread::Builder::new()
            .name("serve".to_owned())
            .spawn(move || runtime.block_on(accept(listener, shown)))
            .context("cannot start a thread")?;
        Ok(Self { address })
    }

    /// Where it is, the port included if any was asked for.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, shown: Shown) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            log::error!("cannot listen: {error}");
            return;
        }
    };
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Such as too many open files, which passes.
                log::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let shown = shown.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &shown);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            // What goes wrong with one client is its own affair.
            let _ = tokio::time::timeout(LIFE, connection).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, shown: &Shown) -> Response<String> {
    let accept = request.headers().get(ACCEPT);
    let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or_default();
    reply(request.method(), request.uri().path(), accept, shown)
}

fn reply(method: &Method, path: &str, accept: &str, shown: &Shown) -> Response<String> {
    let mut response = Response::new(String::new());
    let plain = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    if method != Method::GET && method != Method::HEAD {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    match path {
        "/metrics" => {
            let dialect = Dialect::accepted(accept);
            let content = hyper::header::HeaderValue::from_static(dialect.content_type());
            response.headers_mut().insert(CONTENT_TYPE, content);
            *response.body_mut() = text(&shown.get(), dialect);
        }
        "/" => *response.body_mut() = "tracer: the metrics are at /metrics\n".to_owned(),
        _ => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            *response.body_mut() = "there is only /metrics\n".to_owned();
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn only_metrics_are_there_and_only_to_be_read() {
        let shown = Shown::default();
        let ask = |method, path, accept| reply(method, path, accept, &shown);
        let open = ask(&Method::GET, "/metrics", "application/openmetrics-text");
        assert!(open.body().ends_with("# EOF\n"));
        assert!(
            open.headers()[CONTENT_TYPE]
                .to_str()
                .unwrap()
                .contains("openmetrics")
        );
        assert_eq!(ask(&Method::GET, "/../etc", "").status(), StatusCode::NOT_FOUND);
        assert_eq!(
            ask(&Method::POST, "/metrics", "").status(),
            StatusCode::METHOD_NOT_ALLOWED
        );
    }

    #[test]
    fn somebody_who_says_nothing_keeps_nobody_else_waiting() {
        let server = Server::start("127.0.0.1:0".parse().unwrap(), Shown::default()).unwrap();
        let _silent = TcpStream::connect(server.address()).unwrap();
        let mut garbage = TcpStream::connect(server.address()).unwrap();
        garbage.write_all(b"\0\xff\r\n\r\n").unwrap();
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    }
}
