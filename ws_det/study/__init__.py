"""The evidence: small studies of the claims of the WS and BCN papers, and the page made of them."""
