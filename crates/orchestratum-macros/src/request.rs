//! `#[derive(Request)]` and `#[derive(StreamRequest)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Generics, parse_quote};

use crate::at;
use crate::case::request_name;
use crate::named::{self, refuse_lifetimes, with_named_parameters};
use crate::options::Options;

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let options = Options::of_request(&input.attrs)?;
    check(input)?;
    let ident = &input.ident;
    let named = named::implement(input, &name(input, &options));
    let generics = with_bounds(
        &input.generics,
        &quote! {
            ::orchestratum_mediator::macro_support::serde::Serialize
            + ::orchestratum_mediator::macro_support::serde::de::DeserializeOwned
            + ::core::marker::Send + ::core::marker::Sync + 'static
        },
    );
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let response = options.response.as_ref().map_or_else(|| quote!(()), |response| quote!(#response));
    let defaults = options.defaults();
    let follow_ups = options.follow_ups.then(|| {
        quote_spanned! {at(ident.span())=>
            fn endings() -> ::core::option::Option<::orchestratum_mediator::macro_support::Endings<Self>> {
                ::core::option::Option::Some(::orchestratum_mediator::macro_support::Endings::of())
            }
        }
    });
    let behaviors = (!options.behaviors.is_empty()).then(|| {
        let behaviors = options.behaviors.iter().map(|behavior| quote_spanned!(at(behavior.span())=> .with(#behavior)));
        quote! {
            fn behaviors() -> ::orchestratum_mediator::Behaviors<Self> {
                ::orchestratum_mediator::Behaviors::new()#(#behaviors)*
            }
        }
    });
    let listed = input.generics.params.is_empty().then(|| {
        quote! {
            ::orchestratum_mediator::macro_support::inventory::submit! {
                ::orchestratum_mediator::macro_support::RequestEntry::new::<#ident>()
            }
        }
    });
    Ok(quote! {
        #named
        #[automatically_derived]
        impl #impl_generics ::orchestratum_mediator::Request for #ident #type_generics #where_clause {
            type Response = #response;

            fn defaults() -> ::orchestratum_mediator::Defaults {
                #defaults
            }

            #behaviors
            #follow_ups
        }
        #[automatically_derived]
        impl #impl_generics ::orchestratum_mediator::IntoCommand for #ident #type_generics #where_clause {
            fn into_command(
                self,
            ) -> ::orchestratum_mediator::macro_support::CoreResult<::orchestratum_mediator::Command> {
                ::orchestratum_mediator::macro_support::command(&self)
            }
        }
        #listed
    })
}

pub(crate) fn expand_stream(input: &DeriveInput) -> syn::Result<TokenStream> {
    let options = Options::of_stream(&input.attrs)?;
    check(input)?;
    let ident = &input.ident;
    let Some(item) = &options.item else {
        let problem = "a stream request says what its stream is made of: `#[request(item = T)]`";
        return Err(syn::Error::new_spanned(ident, problem));
    };
    let named = named::implement(input, &name(input, &options));
    let generics = with_bounds(&input.generics, &quote!(::core::marker::Send + 'static));
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #named
        #[automatically_derived]
        impl #impl_generics ::orchestratum_mediator::StreamRequest for #ident #type_generics #where_clause {
            type Item = #item;
        }
    })
}

fn check(input: &DeriveInput) -> syn::Result<()> {
    refuse_lifetimes(&input.generics, "a request owns its data, because it outlives the call: it has no lifetime")?;
    match &input.data {
        Data::Union(data) => Err(syn::Error::new_spanned(data.union_token, "a request is a struct or an enum")),
        Data::Struct(_) | Data::Enum(_) => Ok(()),
    }
}

fn name(input: &DeriveInput, options: &Options) -> String {
    options.name.as_ref().map_or_else(|| request_name(&input.ident.to_string()), syn::LitStr::value)
}

/// For a generic type: what the trait asks of the whole type, asked where the implementation is used.
fn with_bounds(generics: &Generics, bounds: &TokenStream) -> Generics {
    let mut with_bounds = with_named_parameters(generics);
    if !generics.params.is_empty() {
        with_bounds.make_where_clause().predicates.push(parse_quote!(Self: #bounds));
    }
    with_bounds
}
