from distilkit.cli.app import main

main()
