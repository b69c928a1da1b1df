//! The page: axum answers HTTP, and the connections that it upgrades become sessions like those over TCP.

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
    ws::{self, Messages, WsLayer, WsListener, WsRefusal, WsUpgrader},
};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA256, digest};
use tokio::net::TcpListener;

/// What a browser's session runs over.
pub(crate) type Io = TokioIo<hyper::upgrade::Upgraded>;

const PAGE: &str = include_str!("page.html");

/// The page on `listener`, and the sessions of those who look at it. `tcp_port` is where it says that terminals go; a
/// longer message than `longest` bytes ends its session.
pub(crate) fn serve(
    listener: TcpListener,
    tcp_port: u16,
    longest: usize,
) -> (
    impl Future<Output = std::io::Result<()>> + Send + 'static,
    WsListener<Io>,
) {
    let is_local = listener
        .local_addr()
        .is_ok_and(|address| address.ip().is_loopback());
    let layer = WsLayer::new()
        .with_messages(Messages::Text)
        .with_max_message(longest)
        .with_accept(move |request, _| async move {
            let host = request.headers().get(header::HOST);
            let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
            if is_local && !host.is_some_and(|host| is_own(host.host())) {
                let why = "only this machine's own pages may connect";
                return Err(WsRefusal::new(StatusCode::FORBIDDEN, why));
            }
            Ok(())
        });
    let (upgrader, sessions) = ws::upgrades(&layer);
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let page = PAGE.replace("{tcp_port}", &tcp_port.to_string());
    let routes = Router::new()
        .route("/", get(move || async { (headers, Html(page)) }))
        .route("/lines", any(open))
        .with_state(upgrader)
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = listener.tap_io(|stream| {
        // lines are short and are to arrive at once; a connection that cannot be told so is broken, and soon found out
        let _ = stream.set_nodelay(true);
    });
    (axum::serve(listener, routes).into_future(), sessions)
}

/// Answers the request for a WebSocket; pages of other origins are refused, as are those of other names for this machine.
async fn open(
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

/// Whether it is we who are known as `host`. Anybody can have a name of theirs lead to this machine (DNS rebinding), and then
/// the page that they serve under it is of the same origin; they cannot serve one under an address of ours.
fn is_own(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Nothing but the page's own script and style, told by their digests, and connections to where it came from.
fn policy() -> String {
    let [script, style] = ["script", "style"].map(|tag| {
        let (_, rest) = PAGE
            .split_once(&format!("<{tag}>"))
            .expect("the page has it");
        let (source, _) = rest.split_once(&format!("</{tag}>")).expect("and ends it");
        format!(
            "'sha256-{}'",
            BASE64.encode(digest(&SHA256, source.as_bytes()).as_ref())
        )
    });
    format!(
        "default-src 'none'; script-src {script}; style-src {style}; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}
