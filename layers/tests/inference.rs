//! Type inference of a whole stack with closures as handlers.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{Connection, HasSession, IntoReply, Reply, Request, SessionIo};
use getty_layers::{CodecLayer, HandleErrorLayer};
use tokio_test::{assert_ready_ok, task};
use tokio_util::codec::{Decoder, Encoder, LinesCodec};
use tower::{BoxError, Layer, Service, ServiceBuilder};

/// Replaces the session loop, with its bounds. Passes one message, which `T` decodes from, to
/// the stack.
#[derive(Clone)]
struct OneMessageLayer(&'static str);

#[derive(Clone)]
struct OneMessage<S>(S, &'static str);

impl<S> Layer<S> for OneMessageLayer {
    type Service = OneMessage<S>;

    fn layer(&self, inner: S) -> OneMessage<S> {
        OneMessage(inner, self.0)
    }
}

impl<S, T, C, Out> Service<Connection<SessionIo<T, C, Out>>> for OneMessage<S>
where
    C: Decoder + Encoder<Out>,
    S: Service<Request<C::Item, Out>>,
    S::Response: IntoReply<Out>,
    S::Error: Into<BoxError>,
    Out: Send + 'static,
{
    type Response = Option<Reply<Out>>;
    type Error = BoxError;
    type Future = Ready<Result<Option<Reply<Out>>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<SessionIo<T, C, Out>>) -> Self::Future {
        let session = connection.transport().session().clone();
        let (framed, _guard) = connection.into_parts();
        let mut codec = framed.into_parts().codec;
        let Ok(Some(message)) = codec.decode(&mut self.1.into()) else {
            return ready(Ok(None));
        };
        let mut reply = task::spawn(self.0.call(Request::new(message, session)));
        ready(match reply.poll() {
            Poll::Ready(reply) => reply
                .map(|reply| Some(reply.into_reply()))
                .map_err(Into::into),
            Poll::Pending => Ok(None),
        })
    }
}

/// Replaces the server's entry point: a function whose bound names the service.
fn serve<S>(mut stack: S) -> S::Response
where
    S: Service<Connection<()>, Error = BoxError>,
{
    assert_ready_ok!(task::spawn(stack.call(Connection::new(()))).poll())
}

#[tokio::test]
async fn closures_need_no_types_except_the_message() {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(OneMessageLayer("hello\n"))
        .layer(HandleErrorLayer::new(|error| Some(format!("ERR {error}"))))
        .timeout(Duration::from_secs(1))
        .service_fn(|request: Request<String>| async move {
            Ok::<_, BoxError>(Some(request.into_message()))
        });
    assert_eq!(serve(stack), Some(Reply::one("hello".to_owned())));
}

#[tokio::test]
async fn handler_may_fail_with_any_error() {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(OneMessageLayer("seven\n"))
        .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
        .service_fn(|request: Request<String>| async move {
            let number: u32 = request.message().parse()?;
            Ok::<_, std::num::ParseIntError>(vec![number.to_string()])
        });
    let reply = serve(stack).unwrap();
    assert!(reply.is_after_error());
    assert_eq!(
        reply,
        Reply::one("ERR invalid digit found in string".to_owned()).after_error()
    );
}
