//! `#[derive(Notification)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, parse_quote};

use crate::named::refuse_lifetimes;

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    refuse_lifetimes(&input.generics, "a notification owns its data: it has no lifetime")?;
    let ident = &input.ident;
    let mut generics = input.generics.clone();
    if !generics.params.is_empty() {
        let clause = generics.make_where_clause();
        clause.predicates.push(parse_quote! {
            Self: ::core::clone::Clone + ::core::marker::Send + ::core::marker::Sync + 'static
        });
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::orchestratum_mediator::Notification for #ident #type_generics #where_clause {}
    })
}
