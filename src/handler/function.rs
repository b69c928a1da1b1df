//! Functions as handlers.

use getty_core::{Reply, Request};
use std::future::Future;
use tower::BoxError;

use super::{FromRequest, FromSession, HandlerFuture, Outcome, Rejection};

/// Handlers: functions, `async` or not, whose arguments are made from a request.
///
/// The first argument implements [`FromRequest`], the others [`FromSession`]. The return type
/// is a [`HandlerOutput`](super::HandlerOutput), or a future of one. A handler has up to eight
/// arguments, or none. It may capture values. They are cloned for each call.
///
/// This trait is implemented for all functions with such arguments. `Args` contains their
/// types. The compiler infers it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler of `{In}` for a session that sends `{Out}`, with the state `{S}`",
    label = "not a handler",
    note = "a handler is a function of up to eight arguments: the message or made of it, then `Session<{Out}>`, `State<T>`, `Attribute<T>`"
)]
pub trait Handler<In, Out, S, Args>: Clone + Send + Sync + Sized + 'static {
    /// Future of an `async` handler. For other handlers it is a placeholder that is never polled.
    type Future: Future<Output = Result<Reply<Out>, BoxError>> + Send + 'static;

    /// Makes the arguments and calls the function.
    fn call(&self, request: Request<In, Out>, state: &S) -> HandlerFuture<Self::Future, Out>;
}

impl<F, Args, In, Out, S, V, W> Handler<In, Out, S, (Args, V, W)> for F
where
    F: Function<Args>,
    Args: Arguments<In, Out, S, V>,
    F::Output: Outcome<Out, W>,
    <F::Output as Outcome<Out, W>>::Future: Send + 'static,
{
    type Future = <F::Output as Outcome<Out, W>>::Future;

    #[inline(always)]
    fn call(&self, request: Request<In, Out>, state: &S) -> HandlerFuture<Self::Future, Out> {
        match Args::make(request, state) {
            Ok(args) => self.clone().apply(args).into_future(),
            Err(rejection) => HandlerFuture::ready(rejection.into_result()),
        }
    }
}

/// Functions of up to eight arguments. Implemented for all that can be cloned and shared.
///
/// A function is consumed by its call, so that `async move` closures may capture values.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a function of up to eight arguments that is `Clone + Send + Sync`",
    label = "not a function that can be a handler"
)]
pub trait Function<Args>: Clone + Send + Sync + Sized + 'static {
    /// Return type of the function.
    type Output;

    /// Calls the function.
    fn apply(self, args: Args) -> Self::Output;
}

/// Tuples of arguments that can be made from a request.
pub trait Arguments<In, Out, S, V>: Sized {
    /// Makes the arguments from the session and from the state first, and the first argument
    /// last.
    fn make(request: Request<In, Out>, state: &S) -> Result<Self, Rejection<Out>>;
}

impl<In, Out, S> Arguments<In, Out, S, ()> for () {
    #[inline]
    fn make(_: Request<In, Out>, _: &S) -> Result<Self, Rejection<Out>> {
        Ok(())
    }
}

impl<In, Out, S, V, A> Arguments<In, Out, S, V> for (A,)
where
    A: FromRequest<In, Out, S, V>,
{
    #[inline(always)]
    fn make(request: Request<In, Out>, state: &S) -> Result<Self, Rejection<Out>> {
        Ok((A::from_request(request, state)?,))
    }
}

macro_rules! functions {
    ($($args:ident)*) => {
        #[diagnostic::do_not_recommend]
        #[allow(non_snake_case, reason = "a type and its value share a name")]
        impl<Fun, R, $($args,)*> Function<($($args,)*)> for Fun
        where
            Fun: FnOnce($($args,)*) -> R + Clone + Send + Sync + 'static,
        {
            type Output = R;

            #[inline]
            fn apply(self, ($($args,)*): ($($args,)*)) -> R {
                self($($args,)*)
            }
        }
    };
}

functions!();
functions!(A);

macro_rules! arguments {
    ($first:ident $($rest:ident)+) => {
        functions!($first $($rest)+);

        impl<In, Out, S, V, $first, $($rest,)+> Arguments<In, Out, S, V> for ($first, $($rest,)+)
        where
            Out: 'static,
            $first: FromRequest<In, Out, S, V>,
            $($rest: FromSession<Out, S>,)+
        {
            #[inline(always)]
            #[allow(non_snake_case, reason = "a type and its value share a name")]
            fn make(request: Request<In, Out>, state: &S) -> Result<Self, Rejection<Out>> {
                // called once, because each call of `session` checks the type of the session
                let session = request.session();
                $(let $rest = $rest::from_session(session, state)?;)+
                Ok(($first::from_request(request, state)?, $($rest,)+))
            }
        }
    };
}

arguments!(A B);
arguments!(A B C);
arguments!(A B C D);
arguments!(A B C D E);
arguments!(A B C D E F);
arguments!(A B C D E F G);
arguments!(A B C D E F G H);
