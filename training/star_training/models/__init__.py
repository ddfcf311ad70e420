"""Models by name: the grammar (`names`), the files behind a name (`resolve`), the module (`create`), its lineage."""

# the names that commands take, for their help
LEAVES = "a run, a saved folder, a zoo tag, any timm name, hf-hub:OWNER/NAME, untrained:NAME"
WRAPPERS = (
    "'averaged(views=8):MODEL', 'canonical(group=c4):MODEL', 'heads(space=all):MODEL', "
    "'invariant(kind=sort,group=c4):MODEL', concat:MODEL+MODEL"
)
