"""Reports: pages (`page`, `html`), figures and tables about models, drawn from logs and evaluation records."""
