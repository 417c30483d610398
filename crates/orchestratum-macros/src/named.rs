//! `#[derive(Named)]`, and the name of a type as an expression.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, GenericParam, Generics, LitStr, parse_quote};

use crate::case::snake_case;
use crate::options::check_name;

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    refuse_lifetimes(&input.generics, "a name belongs to a type without lifetimes")?;
    let mut name = None;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("named")) {
        let literal: LitStr = attribute.parse_args()?;
        check_name(&literal)?;
        name = Some(literal.value());
    }
    Ok(implement(input, &name.unwrap_or_else(|| snake_case(&input.ident.to_string()))))
}

/// The implementation of `Named`: `name`, followed by the names of the type's parameters.
pub(crate) fn implement(input: &DeriveInput, name: &str) -> TokenStream {
    let ident = &input.ident;
    let generics = with_named_parameters(&input.generics);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let parameters = input.generics.params.iter().filter_map(|parameter| match parameter {
        GenericParam::Type(parameter) => {
            let parameter = &parameter.ident;
            Some(quote!(<#parameter as ::orchestratum_mediator::Named>::name()))
        }
        GenericParam::Const(parameter) => {
            let parameter = &parameter.ident;
            Some(quote!(::std::borrow::Cow::Owned(::std::string::ToString::to_string(&#parameter))))
        }
        GenericParam::Lifetime(_) => None,
    });
    let body = if input.generics.params.is_empty() {
        quote!(::std::borrow::Cow::Borrowed(#name))
    } else {
        quote!(::orchestratum_mediator::macro_support::generic_name(#name, &[#(#parameters),*]))
    };
    quote! {
        #[automatically_derived]
        impl #impl_generics ::orchestratum_mediator::Named for #ident #type_generics #where_clause {
            fn name() -> ::std::borrow::Cow<'static, str> {
                #body
            }
        }
    }
}

/// The type's generics, each type parameter with a name.
pub(crate) fn with_named_parameters(generics: &Generics) -> Generics {
    let mut generics = generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(::orchestratum_mediator::Named));
        parameter.default = None;
    }
    generics
}

pub(crate) fn refuse_lifetimes(generics: &Generics, problem: &str) -> syn::Result<()> {
    match generics.lifetimes().next() {
        Some(lifetime) => Err(syn::Error::new_spanned(lifetime, problem)),
        None => Ok(()),
    }
}
