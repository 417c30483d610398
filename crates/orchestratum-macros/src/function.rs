//! Handlers that are functions.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, ReturnType, Type};

use crate::at;
use crate::handler::{Arguments, conditions, submit};
use crate::kind::Kind;

/// What is often put where the subject belongs.
const EXTRACTED: [&str; 4] = ["Context", "Service", "Mediator", "CancellationToken"];

/// Implements the handler's trait for a hidden type that calls the function, and submits that.
pub(crate) fn register(kind: Kind, arguments: &Arguments, function: &ItemFn) -> syn::Result<TokenStream> {
    let types = check_arguments(kind, function)?;
    check_signature(kind, function)?;
    check_generics(kind, arguments, function)?;
    let (subject, extracted) = types.split_first().expect("a handler has a first argument");
    let marker = format_ident!("__OrchestratumHandler");
    let (impl_generics, _, where_clause) = function.sig.generics.split_for_impl();
    let trait_path = kind.trait_path(at(subject.span()));
    let method = method(kind, function, subject, extracted);
    let required = extracted.iter().map(|ty| {
        quote_spanned!(at(ty.span())=> <#ty as ::orchestratum_mediator::FromContext>::require(services, wanted_by)?;)
    });
    let subjects = if arguments.listed.is_empty() { vec![(*subject).clone()] } else { arguments.listed.clone() };
    let name = function.sig.ident.to_string();
    let handlers = subjects.into_iter().map(|subject| (subject, quote!(#marker)));
    let submitted = submit(kind, arguments, &name, handlers);
    let conditions = conditions(&function.attrs);
    Ok(quote! {
        #(#conditions)*
        const _: () = {
            struct #marker;

            #[automatically_derived]
            impl #impl_generics #trait_path<#subject> for #marker #where_clause {
                #method

                #[allow(unused_variables, reason = "a handler may need nothing but its first argument")]
                fn require(
                    services: &::orchestratum_mediator::Services,
                    wanted_by: &str,
                ) -> ::orchestratum_mediator::macro_support::CoreResult<()> {
                    #(#required)*
                    ::core::result::Result::Ok(())
                }
            }

            #[automatically_derived]
            impl ::orchestratum_mediator::FromServices for #marker {
                fn from_services(
                    _: &::orchestratum_mediator::Services,
                    _: &str,
                ) -> ::orchestratum_mediator::macro_support::CoreResult<Self> {
                    ::core::result::Result::Ok(Self)
                }
            }

            #submitted
        };
    })
}

fn method(kind: Kind, function: &ItemFn, subject: &Type, extracted: &[&Type]) -> TokenStream {
    let ident = &function.sig.ident;
    let (_, type_generics, _) = function.sig.generics.split_for_impl();
    let turbofish = type_generics.as_turbofish();
    let names: Vec<_> = (0..extracted.len()).map(|at| format_ident!("__argument{at}")).collect();
    let extract = extracted.iter().zip(&names).map(|(ty, name)| {
        quote_spanned!(at(ty.span())=> let #name = <#ty as ::orchestratum_mediator::FromContext>::from_context(&__ctx)?;)
    });
    let extract = quote!(#(#extract)*);
    let call = quote!(#ident #turbofish(__subject, #(#names),*));
    let ReturnType::Type(_, returned) = &function.sig.output else {
        return TokenStream::new();
    };
    // All that depends on the subject points at it: what is no request, is said there.
    let here = at(subject.span());
    let result = quote_spanned!(here=> ::orchestratum_mediator::macro_support::anyhow::Result);
    let item = match kind {
        Kind::Request => quote_spanned!(here=> #result<<#subject as ::orchestratum_mediator::Request>::Response>),
        Kind::Notification => quote_spanned!(here=> #result<()>),
        Kind::Stream => quote_spanned!(here=> #result<<#subject as ::orchestratum_mediator::StreamRequest>::Item>),
    };
    if kind == Kind::Stream {
        return quote_spanned! {here=>
            fn handle(
                &self,
                __subject: #subject,
                __ctx: ::orchestratum_mediator::Context,
            ) -> impl ::orchestratum_mediator::macro_support::Stream<Item = #item> + ::core::marker::Send + 'static {
                ::orchestratum_mediator::macro_support::open_stream(move || {
                    #extract
                    ::core::result::Result::Ok(#call)
                })
            }
        };
    }
    let checked = quote_spanned! {at(returned.span())=>
        <#returned as ::orchestratum_mediator::macro_support::Returned<#item>>::checked
    };
    quote_spanned! {here=>
        async fn handle(&self, __subject: #subject, __ctx: ::orchestratum_mediator::Context) -> #item {
            #extract
            #checked(#call.await)
        }
    }
}

/// The types of the arguments: the subject first.
fn check_arguments(kind: Kind, function: &ItemFn) -> syn::Result<Vec<&Type>> {
    let subject = kind.subject();
    if function.sig.inputs.is_empty() {
        let problem = format!("a handler takes its {subject} as the first argument");
        return Err(Error::new(function.sig.paren_token.span.join(), problem));
    }
    let mut types = Vec::new();
    let mut problems: Option<Error> = None;
    for argument in &function.sig.inputs {
        let problem = match argument {
            FnArg::Receiver(receiver) => {
                let (attribute, of) = (kind.attribute(), kind.trait_name());
                let problem = format!(
                    "a handler function has no `self`: for a handler with fields write \
                     `{attribute} impl {of}<..> for ..`"
                );
                Error::new_spanned(receiver, problem)
            }
            FnArg::Typed(argument) => match &*argument.ty {
                Type::Reference(reference) => {
                    let problem = format!(
                        "a handler owns its arguments: take the {subject} by value, a service as `Service<T>`, \
                         and `Context` by value"
                    );
                    Error::new_spanned(reference, problem)
                }
                Type::ImplTrait(ty) => Error::new_spanned(ty, "an argument of a handler has a named type"),
                ty => {
                    types.push(ty);
                    continue;
                }
            },
        };
        match &mut problems {
            Some(problems) => problems.combine(problem),
            None => problems = Some(problem),
        }
    }
    if let (None, Some(Type::Path(first))) = (&problems, types.first())
        && let Some(last) = first.path.segments.last()
        && EXTRACTED.iter().any(|name| last.ident == name)
    {
        let problem = format!("the first argument of a handler is its {subject}; `{}` comes after it", last.ident);
        return Err(Error::new_spanned(first, problem));
    }
    problems.map_or(Ok(types), Err)
}

fn check_signature(kind: Kind, function: &ItemFn) -> syn::Result<()> {
    let signature = &function.sig;
    match (kind, signature.asyncness) {
        (Kind::Request | Kind::Notification, None) => {
            return Err(Error::new(signature.fn_token.span, "a handler is an async function: write `async fn`"));
        }
        (Kind::Stream, Some(token)) => {
            let problem =
                "a stream handler is a plain function that returns its stream: what it awaits, it awaits there";
            return Err(Error::new(token.span, problem));
        }
        _ => {}
    }
    if matches!(signature.output, ReturnType::Default) {
        let problem = format!("a handler returns `{}`", kind.return_type());
        return Err(Error::new_spanned(&signature.ident, problem));
    }
    Ok(())
}

fn check_generics(kind: Kind, arguments: &Arguments, function: &ItemFn) -> syn::Result<()> {
    let generics = &function.sig.generics;
    if let Some(lifetime) = generics.lifetimes().next() {
        return Err(Error::new_spanned(lifetime, "a handler owns its arguments: it has no lifetime"));
    }
    let is_generic = !generics.params.is_empty();
    match arguments.listed.first() {
        None if is_generic => Err(Error::new_spanned(generics, unlisted(kind))),
        Some(first) if !is_generic => Err(Error::new_spanned(first, not_generic(kind))),
        _ => Ok(()),
    }
}

pub(crate) fn unlisted(kind: Kind) -> String {
    let (attribute, subject) = (kind.attribute().trim_end_matches(']'), kind.subject());
    format!(
        "a generic handler lists what it is registered for, each {subject} with its parameters: `{attribute}(SendEmail<Welcome>, SendEmail<Invoice>)]`"
    )
}

pub(crate) fn not_generic(kind: Kind) -> String {
    format!("only a generic handler lists its {}s", kind.subject())
}
