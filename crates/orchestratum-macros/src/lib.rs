//! The macros of `orchestratum-mediator`, which re-exports and explains them; use them from there.
//!
//! Here are the entry points; each macro has a file of its own. Mistakes are compile errors that point at the token to
//! change; their text is tested in `orchestratum-mediator/tests/ui`.

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

mod case;
mod duration;
mod from_services;
mod function;
mod handler;
mod implementation;
mod kind;
mod named;
mod notification;
mod options;
mod request;

/// Makes a struct or an enum a request: something that can be sent and appended.
///
/// The type derives `Serialize` and `Deserialize` beside it. All options are optional:
///
/// | option | means |
/// |---|---|
/// | `name = "send_email"` | the key; by default the type's name in snake case without a trailing `Command` |
/// | `response = User` | what its handler answers; `()` by default |
/// | `timeout = "10m"` | how long one attempt may run: `ms`, `s`, `m`, `h`, `d`, also `"1h30m"` |
/// | `retries = 5` | retries after the first attempt |
/// | `queue = "mail"` | the lane to run in |
/// | `priority = 3` | larger runs first |
/// | `follow_ups` | the type implements `FollowUps` |
/// | `behaviors(Validation, Before(Audit))` | behaviors around this request, inside of the builder's |
///
/// The name of a generic request contains those of its parameters, each of which implements `Named`:
/// `send_email<welcome>`. Expands to implementations of `Named`, `Request` and `IntoCommand`, and lists a request
/// without parameters, so that a start can tell which requests have no handler.
#[proc_macro_derive(Request, attributes(request))]
pub fn derive_request(input: TokenStream) -> TokenStream {
    finish(request::expand(&parse_macro_input!(input as DeriveInput)))
}

/// Makes a type a stream request: its handler answers with a stream of items.
///
/// `#[request(item = T)]` is required, `name = ".."` is optional.
#[proc_macro_derive(StreamRequest, attributes(request))]
pub fn derive_stream_request(input: TokenStream) -> TokenStream {
    finish(request::expand_stream(&parse_macro_input!(input as DeriveInput)))
}

/// Gives a type a name that may stand in the name of a generic request.
///
/// The name is the type's in snake case, or `#[named("welcome")]`. Requests have one already.
#[proc_macro_derive(Named, attributes(named))]
pub fn derive_named(input: TokenStream) -> TokenStream {
    finish(named::expand(&parse_macro_input!(input as DeriveInput)))
}

/// Makes a type a notification: something that is published to all of its handlers. It derives `Clone` beside it.
#[proc_macro_derive(Notification)]
pub fn derive_notification(input: TokenStream) -> TokenStream {
    finish(notification::expand(&parse_macro_input!(input as DeriveInput)))
}

/// Fills a struct from the services given to the builder: each field is an `Arc<T>`, an `Arc<dyn Trait>`, an
/// `Option<Arc<T>>` for a service that may be missing, or a struct that itself derives `FromServices`.
#[proc_macro_derive(FromServices)]
pub fn derive_from_services(input: TokenStream) -> TokenStream {
    finish(from_services::expand(&parse_macro_input!(input as DeriveInput)))
}

/// Registers the handler of a request: on an async function, or on `impl Handler<R> for H` where `H: FromServices`.
///
/// A function takes the request first, then in any order whatever implements `FromContext`: `Service<T>`, `Context`,
/// `Mediator`. It stays callable as written. One that is generic lists the requests that it handles:
/// `#[handler(SendEmail<Welcome>, SendEmail<Invoice>)]`; so does a generic `impl`.
#[proc_macro_attribute]
pub fn handler(attribute: TokenStream, item: TokenStream) -> TokenStream {
    handler::expand(kind::Kind::Request, attribute.into(), &item.into()).into()
}

/// Registers a handler of a notification: on an async function, or on `impl NotificationHandler<N> for H`.
///
/// Arguments are as for `#[handler]`. A smaller `order = 10` runs earlier; without one it is 0. Handlers of the same
/// order run in the order of their names. A generic one lists its notifications: `#[notification_handler(order = 1,
/// Created<User>)]`.
#[proc_macro_attribute]
pub fn notification_handler(attribute: TokenStream, item: TokenStream) -> TokenStream {
    handler::expand(kind::Kind::Notification, attribute.into(), &item.into()).into()
}

/// Registers the handler of a stream request: on a function that returns `impl Stream<Item = anyhow::Result<T>>`, or on
/// `impl StreamHandler<R> for H`. Arguments are as for `#[handler]`; the function itself is not async.
#[proc_macro_attribute]
pub fn stream_handler(attribute: TokenStream, item: TokenStream) -> TokenStream {
    handler::expand(kind::Kind::Stream, attribute.into(), &item.into()).into()
}

fn finish(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(|error| error.into_compile_error()).into()
}

/// Where an error is shown, with the names of the place where the macro stands: the tokens there may come from another
/// macro.
fn at(span: proc_macro2::Span) -> proc_macro2::Span {
    span.resolved_at(proc_macro2::Span::call_site())
}
