//! Handlers that are `impl` blocks.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, GenericArgument, ItemImpl, PathArguments, Type};

use crate::function::{not_generic, unlisted};
use crate::handler::{Arguments, conditions, submit, wrong_place};
use crate::kind::Kind;

/// Submits the type to the registry.
pub(crate) fn register(kind: Kind, arguments: &Arguments, block: &ItemImpl) -> syn::Result<TokenStream> {
    let subject = subject(kind, block)?;
    let handler = &*block.self_ty;
    let name = quote!(#handler).to_string().replace(' ', "");
    let is_generic = !block.generics.params.is_empty();
    let conditions = conditions(&block.attrs);
    let registration = match arguments.listed.first() {
        None if is_generic => return Err(Error::new_spanned(&block.generics, unlisted(kind))),
        Some(first) if !is_generic => return Err(Error::new_spanned(first, not_generic(kind))),
        None => submit(kind, arguments, &name, std::iter::once((subject.clone(), quote!(#handler)))),
        // The compiler finds the parameters of the handler from those of the request.
        Some(_) => {
            let (impl_generics, _, where_clause) = block.generics.split_for_impl();
            let handlers = arguments
                .listed
                .iter()
                .map(|listed| (listed.clone(), quote!(<__OrchestratumHandler as __OrchestratumOf<#listed>>::Handler)));
            let submitted = submit(kind, arguments, &name, handlers);
            quote! {
                struct __OrchestratumHandler;
                trait __OrchestratumOf<R> {
                    type Handler;
                }
                impl #impl_generics __OrchestratumOf<#subject> for __OrchestratumHandler #where_clause {
                    type Handler = #handler;
                }
                #submitted
            }
        }
    };
    Ok(quote! {
        #(#conditions)*
        const _: () = {
            #registration
        };
    })
}

/// `R` in `impl Handler<R> for H`.
fn subject(kind: Kind, block: &ItemImpl) -> syn::Result<&Type> {
    let Some((_, path, _)) = &block.trait_ else {
        return Err(Error::new_spanned(&block.self_ty, wrong_place(kind)));
    };
    let Some(last) = path.segments.last().filter(|last| last.ident == kind.trait_name()) else {
        return Err(Error::new_spanned(path, wrong_place(kind)));
    };
    if let PathArguments::AngleBracketed(arguments) = &last.arguments
        && let (Some(GenericArgument::Type(subject)), 1) = (arguments.args.first(), arguments.args.len())
    {
        Ok(subject)
    } else {
        Err(Error::new_spanned(path, wrong_place(kind)))
    }
}
