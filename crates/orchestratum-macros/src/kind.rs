//! What the three attributes for handlers differ in.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};

/// What a handler handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Notification,
    Stream,
}

impl Kind {
    pub(crate) const fn attribute(self) -> &'static str {
        match self {
            Self::Request => "#[handler]",
            Self::Notification => "#[notification_handler]",
            Self::Stream => "#[stream_handler]",
        }
    }

    /// The trait that its `impl` blocks are of.
    pub(crate) const fn trait_name(self) -> &'static str {
        match self {
            Self::Request => "Handler",
            Self::Notification => "NotificationHandler",
            Self::Stream => "StreamHandler",
        }
    }

    /// What comes first among its arguments.
    pub(crate) const fn subject(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Notification => "notification",
            Self::Stream => "stream request",
        }
    }

    pub(crate) const fn return_type(self) -> &'static str {
        match self {
            Self::Request => "anyhow::Result<the request's response>",
            Self::Notification => "anyhow::Result<()>",
            Self::Stream => "impl Stream<Item = anyhow::Result<the request's item>>",
        }
    }

    /// The trait's path.
    pub(crate) fn trait_path(self, span: Span) -> TokenStream {
        match self {
            Self::Request => quote_spanned!(span=> ::orchestratum_mediator::Handler),
            Self::Notification => quote_spanned!(span=> ::orchestratum_mediator::NotificationHandler),
            Self::Stream => quote_spanned!(span=> ::orchestratum_mediator::StreamHandler),
        }
    }

    /// The function that makes an entry of the registry.
    pub(crate) fn entry(self) -> TokenStream {
        match self {
            Self::Request => quote!(request),
            Self::Notification => quote!(notification),
            Self::Stream => quote!(stream),
        }
    }
}
