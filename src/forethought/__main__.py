from forethought.cli import main

main()
