//! The web page: axum serves HTTP. Connections that upgrade to WebSocket become getty sessions.

use std::net::{IpAddr, SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, header, uri::Authority},
    response::{Html, Response},
    routing::{any, get},
    serve::ListenerExt,
};
use data_encoding::BASE64;
use getty::{
    Endpoints, TransportKind,
    ws::{self, Deflate, Messages, WsLayer, WsListener, WsRefusal, WsUpgrader},
};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

/// Byte stream of a browser's session.
pub(crate) type Io = TokioIo<hyper::upgrade::Upgraded>;

/// The page is one file with its script and style
/// (design.md: Why is the chat's page one file?).
const PAGE: &str = include_str!("page.html");

/// Returns the future that serves the page on `listener`, and the listener for its sessions.
///
/// The page shows `tcp_port` as the port for `nc`. A message of more than `max_message` bytes
/// closes its session.
pub(crate) fn serve(
    listener: TcpListener,
    tcp_port: u16,
    max_message: usize,
) -> (
    impl Future<Output = std::io::Result<()>> + Send + 'static,
    WsListener<Io>,
) {
    let is_local = listener
        .local_addr()
        .is_ok_and(|address| address.ip().is_loopback());
    let layer = WsLayer::new()
        .with_messages(Messages::Text)
        .with_max_message(max_message)
        // A chat has no secrets to leave out (see the documentation of `getty::ws`).
        .with_deflate(Deflate::new())
        .with_accept(move |request, _| async move {
            let host = request.headers().get(header::HOST);
            let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
            if is_local && !host.is_some_and(|host| is_local_name(host.host())) {
                let reason = "only pages of this machine may connect";
                return Err(WsRefusal::new(StatusCode::FORBIDDEN, reason));
            }
            Ok(())
        });
    let (upgrader, sessions) = ws::upgrades(&layer);
    let headers = [
        (header::CONTENT_SECURITY_POLICY, content_security_policy()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let page = PAGE.replace("{tcp_port}", &tcp_port.to_string());
    let routes = Router::new()
        .route("/", get(move || async { (headers, Html(page)) }))
        .route("/lines", any(upgrade))
        .with_state(upgrader)
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = listener.tap_io(|stream| {
        // Short lines must arrive at once. An error here means that the connection is broken, which
        // the next read reports.
        let _ = stream.set_nodelay(true);
    });
    (axum::serve(listener, routes).into_future(), sessions)
}

/// Upgrades a request to a WebSocket session. Pages of other origins are refused, and so are
/// pages that reach this machine under a foreign name.
async fn upgrade(
    State(upgrader): State<WsUpgrader<Io>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
) -> Response {
    let upgraded = hyper::upgrade::on(&mut request);
    let io = async { upgraded.await.map(TokioIo::new) };
    let endpoints = Endpoints {
        kind: TransportKind::WebSocket,
        peer: peer.into(),
        ..Endpoints::default()
    };
    upgrader
        .upgrade(&request, endpoints, io)
        .await
        .map(Body::from)
}

/// Returns `true` if `host` is an IP address or `localhost`.
///
/// This check prevents DNS rebinding. An attacker can point a domain name at this machine. A
/// page under that name would then have the same origin as this server. An attacker cannot
/// serve a page under an IP address of this machine.
fn is_local_name(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Returns the policy of the page. It allows only the script and the style of `PAGE`,
/// identified by their digests, and connections to the page's own origin.
fn content_security_policy() -> String {
    let [script, style] = ["script", "style"].map(|tag| {
        let (_, rest) = PAGE
            .split_once(&format!("<{tag}>"))
            .expect("page.html contains both tags");
        let (source, _) = rest
            .split_once(&format!("</{tag}>"))
            .expect("page.html closes both tags");
        format!("'sha256-{}'", BASE64.encode(&Sha256::digest(source)))
    });
    format!(
        "default-src 'none'; script-src {script}; style-src {style}; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}
