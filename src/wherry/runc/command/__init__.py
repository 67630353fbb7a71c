"""`wherry-runc`: runc's command line over the built-in runtime. One module a command, imported when it is called."""
