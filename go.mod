module lvs-controller

go 1.26
