//! `#[handler]` and its two siblings: what they have in common.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Attribute, Item, LitInt, Token, Type};

use crate::at;
use crate::kind::Kind;
use crate::{function, implementation};

/// What stands in the attribute.
pub(crate) struct Arguments {
    pub(crate) order: Option<LitInt>,
    /// The requests of a generic handler.
    pub(crate) listed: Vec<Type>,
}

/// The item as written and its registration; after a mistake the item and the error, so that one mistake is one error.
pub(crate) fn expand(kind: Kind, attribute: TokenStream, item: &TokenStream) -> TokenStream {
    let registration = register(kind, attribute, item.clone()).unwrap_or_else(|error| error.into_compile_error());
    // Its arguments are owned whether it consumes them or not; of async functions Clippy knows.
    let allow = (kind == Kind::Stream)
        .then(|| quote!(#[allow(clippy::needless_pass_by_value, reason = "a handler owns its arguments")]));
    quote!(#allow #item #registration)
}

fn register(kind: Kind, attribute: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let arguments: Arguments = syn::parse2(attribute)?;
    if let (Some(order), Kind::Request | Kind::Stream) = (&arguments.order, kind) {
        return Err(syn::Error::new_spanned(order, "only handlers of notifications have an order"));
    }
    match syn::parse2(item)? {
        Item::Fn(function) => function::register(kind, &arguments, &function),
        Item::Impl(implementation) => implementation::register(kind, &arguments, &implementation),
        item => Err(syn::Error::new(item.span(), wrong_place(kind))),
    }
}

pub(crate) fn wrong_place(kind: Kind) -> String {
    let (attribute, of) = (kind.attribute(), kind.trait_name());
    let function = if kind == Kind::Stream { "a function" } else { "an async function" };
    format!("`{attribute}` stands on {function} or on `impl {of}<..> for ..`")
}

/// Submits a handler of each subject to the registry.
pub(crate) fn submit(
    kind: Kind,
    arguments: &Arguments,
    name: &str,
    handlers: impl Iterator<Item = (Type, TokenStream)>,
) -> TokenStream {
    let entry = kind.entry();
    let order = (kind == Kind::Notification).then(|| match &arguments.order {
        Some(order) => quote!(#order,),
        None => quote!(0,),
    });
    let entries = handlers.map(|(subject, handler)| {
        let new = quote_spanned!(at(handler.span())=> #entry::<#subject, #handler>);
        quote! {
            ::orchestratum_mediator::macro_support::inventory::submit! {
                ::orchestratum_mediator::macro_support::Entry::#new(#order #name, ::core::file!(), ::core::line!())
            }
        }
    });
    quote!(#(#entries)*)
}

/// The conditions under which the item exists, which are those of its registration.
pub(crate) fn conditions(attributes: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"))
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut arguments = Self { order: None, listed: Vec::new() };
        while !input.is_empty() {
            if input.peek(syn::Ident) && input.peek2(Token![=]) {
                let key: syn::Ident = input.parse()?;
                if key != "order" {
                    return Err(syn::Error::new(key.span(), "unknown option; known is: order"));
                }
                input.parse::<Token![=]>()?;
                let negative = input.parse::<Option<Token![-]>>()?.is_some();
                let order: LitInt = input.parse()?;
                let digits = if negative { format!("-{order}") } else { order.to_string() };
                if digits.parse::<i32>().is_err() {
                    return Err(syn::Error::new(order.span(), "expected a number that fits `i32`"));
                }
                arguments.order = Some(LitInt::new(&digits, order.span()));
            } else {
                arguments.listed.push(input.parse()?);
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(arguments)
    }
}
