//! What stands in `#[request(..)]`.

use std::time::Duration;

use quote::quote_spanned;
use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Expr, LitInt, LitStr, Token, Type};

use crate::at;
use crate::duration;

/// Keys and queues have at most as many bytes, as in core.
const MAX_NAME_BYTES: usize = 191;

/// The options of a request; all are optional.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<LitStr>,
    pub(crate) response: Option<Type>,
    pub(crate) item: Option<Type>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Option<u32>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) priority: Option<i16>,
    pub(crate) follow_ups: bool,
    pub(crate) behaviors: Vec<Expr>,
}

const OF_REQUESTS: &[&str] =
    &["name", "response", "timeout", "retries", "queue", "priority", "follow_ups", "behaviors"];
const OF_STREAMS: &[&str] = &["name", "item"];

impl Options {
    pub(crate) fn of_request(attributes: &[Attribute]) -> syn::Result<Self> {
        Self::parse(attributes, OF_REQUESTS)
    }

    pub(crate) fn of_stream(attributes: &[Attribute]) -> syn::Result<Self> {
        Self::parse(attributes, OF_STREAMS)
    }

    fn parse(attributes: &[Attribute], known: &[&str]) -> syn::Result<Self> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("request")) {
            attribute.parse_nested_meta(|meta| {
                let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
                if !known.contains(&key.as_str()) {
                    return Err(meta.error(format!("unknown option; known are: {}", known.join(", "))));
                }
                if seen.contains(&key) {
                    return Err(meta.error("this option is given twice"));
                }
                options.set(&key, &meta)?;
                seen.push(key);
                Ok(())
            })?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
        match key {
            "name" => self.name = Some(name(meta)?),
            "queue" => self.queue = Some(name(meta)?),
            "response" => self.response = Some(meta.value()?.parse()?),
            "item" => self.item = Some(meta.value()?.parse()?),
            "timeout" => self.timeout = Some(duration::parse(&meta.value()?.parse()?)?),
            "retries" => {
                let value: Expr = meta.value()?.parse()?;
                self.retries = Some(integer(&value, "a number of retries from 0 on")?);
            }
            "priority" => {
                let value: Expr = meta.value()?.parse()?;
                self.priority = Some(integer(&value, "a number from -32768 to 32767")?);
            }
            "follow_ups" => self.follow_ups = true,
            _ => {
                let content;
                syn::parenthesized!(content in meta.input);
                self.behaviors.extend(Punctuated::<Expr, Token![,]>::parse_terminated(&content)?);
            }
        }
        Ok(())
    }

    /// The defaults as an expression.
    pub(crate) fn defaults(&self) -> proc_macro2::TokenStream {
        let timeout = self.timeout.map(|timeout| {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            quote::quote!(defaults.timeout = ::core::option::Option::Some(::core::time::Duration::from_millis(#millis));)
        });
        let retries =
            self.retries.map(|retries| quote::quote!(defaults.retry_count = ::core::option::Option::Some(#retries);));
        let queue = self.queue.as_ref().map(|queue| {
            quote_spanned!(at(queue.span())=> defaults.queue = ::core::option::Option::Some(::std::string::String::from(#queue));)
        });
        let priority =
            self.priority.map(|priority| quote::quote!(defaults.priority = ::core::option::Option::Some(#priority);));
        quote::quote! {{
            #[allow(unused_mut, reason = "no option may be set")]
            let mut defaults = <::orchestratum_mediator::Defaults as ::core::default::Default>::default();
            #timeout #retries #queue #priority
            defaults
        }}
    }
}

/// A key or a queue.
fn name(meta: &ParseNestedMeta<'_>) -> syn::Result<LitStr> {
    let literal: LitStr = meta.value()?.parse()?;
    check_name(&literal)?;
    Ok(literal)
}

pub(crate) fn check_name(literal: &LitStr) -> syn::Result<()> {
    let value = literal.value();
    if value.is_empty() || value.len() > MAX_NAME_BYTES || value.contains('\0') {
        let problem = format!("a name has 1 to {MAX_NAME_BYTES} bytes and no NUL character");
        return Err(syn::Error::new(literal.span(), problem));
    }
    Ok(())
}

fn integer<N: std::str::FromStr<Err: std::fmt::Display>>(value: &Expr, wanted: &str) -> syn::Result<N> {
    use syn::{ExprLit, ExprUnary, Lit, UnOp};
    let digits = |literal: &LitInt| literal.base10_digits().to_owned();
    let text = match value {
        Expr::Lit(ExprLit { lit: Lit::Int(literal), .. }) => Some(digits(literal)),
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => match &**expr {
            Expr::Lit(ExprLit { lit: Lit::Int(literal), .. }) => Some(format!("-{}", digits(literal))),
            _ => None,
        },
        _ => None,
    };
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| syn::Error::new(value.span(), format!("expected {wanted}")))
}
