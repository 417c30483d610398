//! `#[derive(FromServices)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Field, Fields};

use crate::at;

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        let problem = "`FromServices` is for structs whose fields are services";
        return Err(syn::Error::new_spanned(&input.ident, problem));
    };
    let ident = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let take = |field: &Field| {
        let ty = &field.ty;
        quote_spanned! {at(ty.span())=>
            <#ty as ::orchestratum_mediator::FromServices>::from_services(services, wanted_by)?
        }
    };
    let value = match &data.fields {
        Fields::Named(fields) => {
            let fields = fields.named.iter().map(|field| {
                let (name, value) = (&field.ident, take(field));
                quote!(#name: #value)
            });
            quote!(Self { #(#fields),* })
        }
        Fields::Unnamed(fields) => {
            let fields = fields.unnamed.iter().map(take);
            quote!(Self(#(#fields),*))
        }
        Fields::Unit => quote!(Self),
    };
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::orchestratum_mediator::FromServices for #ident #type_generics #where_clause {
            #[allow(unused_variables, reason = "a struct may have no fields")]
            fn from_services(
                services: &::orchestratum_mediator::Services,
                wanted_by: &str,
            ) -> ::orchestratum_mediator::macro_support::CoreResult<Self> {
                ::core::result::Result::Ok(#value)
            }
        }
    })
}
