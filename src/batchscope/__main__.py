from batchscope.cli import main

main()
