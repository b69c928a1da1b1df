//! One port for two names, each with its own certificate and stack, and for plain peers.
//!
//! ```text
//! cargo run --features front --example front
//! openssl s_client -quiet -connect 127.0.0.1:7443 -servername echo.localhost
//! curl -k https://status.localhost:7443/ --resolve status.localhost:7443:127.0.0.1
//! nc 127.0.0.1 7443
//! ```
//!
//! `echo.localhost` returns lines and `status.localhost` answers HTTP. Other names are refused.
//! Peers of this machine may connect without TLS and then reach the echo.

mod report;

use getty::{
    BoxError, BoxPipeline, CodecLayer, ConnectionRouter, Rate, Reply, Request, ServiceBuilder,
    SessionLayer,
    codec::Lines,
    layers::{
        HandshakeTimeoutLayer, PendingLimitLayer, TraceLayer,
        access::{AccessList, IpNet},
        pending_limit::Overflow,
    },
    net::TcpListener,
    tls::{Pem, ServerTls, TlsConfig, TlsInfo, TlsLayer, TlsOrPlainLayer, TlsRefusal},
};

use self::report::Report;

#[tokio::main]
async fn main() -> Result<(), Report> {
    tracing_subscriber::fmt::init();
    let echo_tls = self_signed("echo.localhost", "echo/1")?;
    let status_tls = self_signed("status.localhost", "http/1.1")?;
    // Certificates, protocols and tickets belong to a name.
    let tls = TlsLayer::choose(move |hello| match hello.server_name() {
        Some("echo.localhost") => Ok(echo_tls.clone()),
        Some("status.localhost") => Ok(status_tls.clone()),
        _ => Err(TlsRefusal::unrecognized_name()),
    })
    .with_handshake_rate(Rate::per_second(500).with_burst(200));

    let pending = PendingLimitLayer::new(1_000).with_overflow(Overflow::DropOldest);
    let local: IpNet = "127.0.0.0/8".parse()?;
    let plain_from = AccessList::deny_all().with_allowed([local]);
    let app = ServiceBuilder::new()
        .layer(TraceLayer::new())
        .layer(HandshakeTimeoutLayer::default())
        .concurrency_limit(10_000)
        .layer(pending.clone())
        .layer(TlsOrPlainLayer::new(tls).with_plain_from(plain_from))
        .service(
            ConnectionRouter::new(|handle| match handle.get::<TlsInfo>() {
                Some(tls) => tls.server_name().map(str::to_owned),
                None => Some("echo.localhost".to_owned()),
            })
            .with_route("echo.localhost".to_owned(), echo())
            .with_route("status.localhost".to_owned(), status(pending)),
        );

    let listener = TcpListener::bind(report::address("127.0.0.1:7443")?).await?;
    println!("listening on {}", listener.local_addr()?);
    getty::serve(listener, app).await?;
    Ok(())
}

fn self_signed(name: &str, protocol: &str) -> Result<TlsConfig, BoxError> {
    let issued = rcgen::generate_simple_self_signed([name.to_owned()])?;
    let (chain, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let settings = ServerTls::new(Pem::inline(chain), Pem::inline(key));
    Ok(settings.with_alpn([protocol]).load()?)
}

/// Returns each line with the transport that it came over.
fn echo() -> BoxPipeline {
    BoxPipeline::new(
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service_fn(|request: Request<String>| async move {
                let transport = request.session().transport();
                Ok::<_, BoxError>(format!("{transport}: {}", request.message()))
            }),
    )
}

/// Answers the first HTTP request at the empty line after its header.
fn status(pending: PendingLimitLayer) -> BoxPipeline {
    BoxPipeline::new(
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new().with_crlf()))
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| {
                let reply = request.message().is_empty().then(|| {
                    let body = format!("pending handshakes: {}", pending.pending());
                    // the codec adds the end of the line
                    let length = format!("content-length: {}", body.len() + 2);
                    let head = ["HTTP/1.1 200 OK".to_owned(), length, String::new()];
                    Reply::many(head.into_iter().chain([body]).collect()).and_close()
                });
                async move { Ok::<_, BoxError>(reply.unwrap_or_else(Reply::none)) }
            }),
    )
}
